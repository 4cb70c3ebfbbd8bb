package main

import "time"

// policyMutants break what is promised of policies, batches and Mutate.
var policyMutants = []mutant{
	{
		name:    "stale-is-not-refreshed",
		promise: "StaleFor",
		edits:   change("lookup.go", "\t\tc.refresh(ctx, &q)\n", ""),
		run:     "TestConformance/memory/StaleFor_a_stale_value",
	},
	{
		name:    "stale-for-ever",
		promise: "StaleFor",
		edits:   change("lookup.go", "f.state == stale && f.now < f.entry.freshUntil(c.window)+int64(c.cfg.StaleFor)", "f.state == stale"),
		run:     "TestConformance/memory/Stale",
	},
	{
		name:    "no-stale-if-error",
		promise: "StaleIfError",
		edits:   change("lookup.go", "if was.now >= was.entry.freshUntil(c.window)+int64(c.cfg.StaleIfError) {", "if true {"),
		run:     "TestConformance/memory/StaleIfError_a_stale_value",
	},
	{
		name:    "no-soft-timeout",
		promise: "SoftTimeout",
		edits:   change("lookup.go", "\tif !c.mayOutlive(was) {\n\t\tsoft = nil\n\t}", "\tsoft = nil"),
		run:     "TestConformance/memory/SoftTimeout_",
	},
	{
		name:    "refreshes-without-end",
		promise: "Refreshes",
		edits:   change("lookup.go", "\tdefault:\n\t\tc.stats.refreshesRefused.Add(1)\n\t\treturn false", "\tdefault:\n\t\tgo func() { c.refreshes <- struct{}{} }()\n\t\treturn true"),
		run:     "TestConformance/memory/Refreshes_",
	},
	{
		name:    "no-jitter",
		promise: "Jitter",
		edits:   change("freshness.go", "if c.cfg.Jitter > 0 {", "if false {"),
		run:     "TestConformance/memory/Jitter_",
	},
	{
		name:    "mutate-does-not-fence",
		promise: "Mutate",
		edits:   change("mutate.go", "c.fence(ctx, key, true)", "c.fence(ctx, key, false)"),
		run:     "TestConformance/memory/(Mutate_|G26_from)",
	},
	{
		name:    "mutate-keeps-after-a-failure",
		promise: "Mutate",
		edits:   change("invalidate.go", "\t\tfailed := change.End(ctx)\n", "\t\tif !returned || err != nil {\n\t\t\tchange.Discard()\n\t\t}\n\t\tfailed := change.End(ctx)\n"),
		run:     "TestConformance/memory/Mutate_",
	},
	{
		name:    "mutate-does-not-repeat",
		promise: "Mutate",
		edits:   change("mutate.go", "\t\tc.repeats.add(failed)\n", "\t\t_ = failed\n"),
		run:     "TestMutateRepeatsARemovalThatFailed",
	},
	{
		name:    "override-is-ignored",
		promise: "OverrideTTL",
		edits:   change("fetch_context.go", "\t\tf.ttl.Store(max(int64(ttl), 0))\n", "\t\t_ = f\n"),
		run:     "TestConformance/memory/OverrideTTL_",
	},
	{
		name:    "skip-is-ignored",
		promise: "SkipStore",
		edits:   change("fetch_context.go", "\t\tf.skipStore.Store(true)\n", "\t\t_ = f\n"),
		run:     "TestConformance/memory/SkipStore_",
	},
	{
		name:    "clones-are-shared",
		promise: "WithClone",
		edits:   change("freshness.go", "\tif c.clone != nil {\n\t\treturn c.clone(value)\n\t}\n\treturn value\n", "\treturn value\n"),
		run:     "TestClonesAreHandedOutEverywhere",
	},
	{
		name:    "cooldown-outlives-a-write",
		promise: "ErrorCooldown",
		edits:   change("fence.go", "\ts.forgetFailureLocked(key)\n\tif f", "\tif f"),
		run:     "TestConformance/memory/ErrorCooldown_a_write",
	},
	{
		name:    "a-stale-value-spares-no-source",
		promise: "ErrorCooldown",
		edits:   change("cooldown.go", "if c.cfg.ErrorCooldown == 0 && (c", "if false && (c"),
		run:     "TestConformance/memory/ErrorCooldown_is_a_second_by_default",
	},
	{
		name:    "only-callers-that-wait-are-spared",
		promise: "ErrorCooldown",
		edits:   change("cooldown.go", "(c.wantsRefresh(&f) || c.clock.now()", "(c.clock.now()"),
		run:     "TestConformance/memory/ErrorCooldown_is_a_second_by_default",
	},
	{
		name:    "only-refreshes-are-spared",
		promise: "ErrorCooldown",
		edits:   change("cooldown.go", "(c.wantsRefresh(&f) || c.clock.now() < f.entry.freshUntil(c.window)+int64(c.cfg.StaleIfError))", "c.wantsRefresh(&f)"),
		run:     "TestConformance/memory/ErrorCooldown_is_a_second_by_default",
	},
	{
		name:    "failures-of-callers-without-a-value-are-remembered",
		promise: "ErrorCooldown",
		edits:   change("cooldown.go", "!f.spared || errors.Is", "errors.Is"),
		run:     "TestConformance/memory/ErrorCooldown_is_none_by_default",
	},
	{
		name:    "what-stale-callers-are-spared-of-is-kept-from-others",
		promise: "ErrorCooldown",
		edits:   change("cooldown.go", "if s.failures.isEmpty() || !g.isSpared(q.found) {", "if s.failures.isEmpty() {"),
		run:     "TestConformance/memory/ErrorCooldown_is_none_by_default",
	},
	{
		name:    "each-of-many-keys-waits",
		promise: "G11",
		edits:   change("batch.go", "cause != nil && c.downFor(key)", "cause != nil && false"),
		run:     "TestManyKeysPayOneOpTimeoutForAFrozenServer",
	},
	{
		name:    "large-batch-is-leased-whole",
		promise: "G11",
		edits:   change("batch_fetch.go", "!f.failed && !f.allowance.mayLease(f.asked)", "false"),
		run:     "TestALargeBatchIsStoredInParts/rueidis-aside",
	},
	{
		name:    "large-batch-is-stored-whole",
		promise: "G11",
		edits:   change("batch_fetch.go", "if i >= maxConcurrent && f.allowance.isSpent() {", "if i >= maxConcurrent && false {"),
		run:     "TestALargeBatchIsStoredInParts/rueidis$",
	},
	{
		name:    "fetch-timeout-runs-while-waiting",
		promise: "LeaseWait",
		edits:   change("flight_deadlines.go", "if f.waiting {\n\t\t\ts.postponeLocked", "if false {\n\t\t\ts.postponeLocked"),
		run:     "TestAnotherProcessIsWaitedForDuringLeaseWait",
	},
	{
		name:    "a-lease-is-waited-for-without-end",
		promise: "LeaseWait",
		edits:   change("lease_wait.go", "known.over = !time.Now().Before(known.until)", "known.over = false"),
		run:     "TestAnotherProcessIsWaitedForDuringLeaseWait",
		within:  30 * time.Second,
	},
	{
		name:    "a-lease-has-no-outcome",
		promise: "LeaseWait",
		edits:   change("lease.go", "case why == noOutcome:", "case true:"),
		run:     "TestALeaseThatEndsWithoutAValueKeepsNoConvoyWaiting",
	},
	{
		name:    "an-outcome-is-for-all",
		promise: "LeaseWait",
		edits:   change("lease_wait.go", "case !s.waited || s.ours || now == s.first:", "case false:"),
		run:     "TestAnOutcomeIsForThoseWhoHaveWaited",
	},
	{
		name:    "a-waiting-batch-falls-apart",
		promise: "batch",
		edits:   change("batch_fetch.go", "for ; left > 0; left-- {", "for ; left > 0 && len(group) == 0; left-- {"),
		run:     "TestABatchThatWaitsForAnotherStaysOne",
	},
	{
		name:    "close-does-not-wait-for-what-is-stored",
		promise: "G15",
		edits:   change("fetch.go", "if c.chores.begin() { // Close waits", "if false { // Close waits"),
		run:     "TestCloseLeavesNoLeaseOfWhatIsBeingStored",
	},
}
