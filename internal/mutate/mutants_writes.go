package main

// writeMutants break what is promised of Delete and Set: G6 to G10.
var writeMutants = []mutant{
	{
		name:    "delete-does-not-void",
		promise: "G6",
		edits:   change("fence.go", "\t\tf.void = true\n\t\ts.detachLocked(key)", "\t\ts.detachLocked(key)"),
		run:     "TestConformance/memory/G6_",
	},
	{
		name:    "delete-does-not-detach",
		promise: "G6",
		edits:   change("fence.go", "\t\tf.void = true\n\t\ts.detachLocked(key)", "\t\tf.void = true"),
		run:     "TestConformance/memory/G6_",
	},
	{
		name:    "fill-is-not-checked",
		promise: "G6",
		edits:   change("fence.go", "\t\tdefer s.mu.Unlock()\n\t\tif f.void || s.closed {", "\t\tdefer s.mu.Unlock()\n\t\tif s.closed {"),
		run:     "TestConformance/memory/G6_",
	},
	{
		name:    "fill-in-redis-is-not-checked",
		promise: "G6",
		edits:   change("fence.go", "\tif f.void || s.closed {\n\t\ts.mu.Unlock()", "\tif s.closed {\n\t\ts.mu.Unlock()"),
		run:     "TestConformance/rueidis/G6_",
	},
	{
		name:    "delete-does-not-wait-for-a-fill",
		promise: "G6",
		edits:   change("fence.go", "\tif filled == nil {\n\t\treturn true, nil\n\t}\n\treturn true, await(ctx, filled)", "\t_ = filled\n\treturn true, nil"),
		run:     "TestVersions/rueidis$",
	},
	{
		name:    "flight-begins-behind-a-write",
		promise: "G6",
		edits:   change("singleflight.go", "f.void = s.fences[f.key] > 0 || s.clearing > 0", "f.void = s.clearing > 0"),
		run:     "TestVersions/rueidis$",
	},
	{
		name:    "old-flight-ends-a-newer-one",
		promise: "G6",
		edits:   change("singleflight.go", "if s.joinable[f.key] == f {", "if true {"),
		run:     "TestConformance/memory/G6_",
	},
	{
		name:    "delete-fences-nothing",
		promise: "G6",
		edits: change("cache.go", "\tfenced, err := c.flights.fence(ctx, key, false)\n\tdefer c.flights.unfence(key, fenced)\n\tif err != nil {\n\t\treturn err\n\t}\n\treturn c.writeError(c.store.delete(ctx, key))",
			"\treturn c.writeError(c.store.delete(ctx, key))"),
		run: "TestConformance/memory/G6_",
	},
	{
		name:    "clear-fences-nothing",
		promise: "G6",
		edits:   change("fence.go", "for key := range s.joinable {", "for key := range map[string]bool{} {"),
		run:     "TestConformance/memory/G6_Clear",
	},
	{
		name:    "set-fences-nothing",
		promise: "G7",
		edits: change("cache.go", "\tfenced, err := c.flights.fence(ctx, key, false)\n\tdefer c.flights.unfence(key, fenced)\n\tif err != nil {\n\t\treturn err\n\t}\n\treturn c.writeError(c.store.set(",
			"\treturn c.writeError(c.store.set("),
		run: "TestConformance/rueidis/G7_",
	},
	{
		name:    "set-lost-to-a-fetch",
		promise: "G7",
		edits: []edit{
			{
				"cache.go", "\tfenced, err := c.flights.fence(ctx, key, false)\n\tdefer c.flights.unfence(key, fenced)\n\tif err != nil {\n\t\treturn err\n\t}\n\treturn c.writeError(c.store.set(",
				"\treturn c.writeError(c.store.set(",
			},
			{"memory.go", "return current == nil || current == l.seen ||", "return true ||"},
		},
		run: "TestConformance/memory/G7_",
	},
	{
		name:    "fill-does-not-compare",
		promise: "G8",
		edits: change("lease.go", "n, err := a.script(ctx, fillScript, k, l.token, value, px)\n\t\treturn n == 1, err",
			"err := a.remote.write(ctx, key, &e, took, false)\n\t\treturn err == nil, err"),
		run: "TestAWriteByAnotherProcessVoidsAFetch",
	},
	{
		name:    "refresh-does-not-compare",
		promise: "G8",
		edits: change("lease.go", "n, err := a.script(ctx, replaceScript, k, l.aside.replaces, strconv.Itoa(l.aside.length), value, px)",
			"n, err := int64(1), a.remote.write(ctx, key, &e, took, false)"),
		run: "TestAWriteByAnotherProcessVoidsAFetch",
	},
	{
		name:    "release-does-not-compare",
		promise: "G8",
		edits: change("lease.go", "\t_, err := a.script(ctx, releaseScript, l.aside.key, l.token)\n\treturn err",
			"\treturn a.remote.delete(ctx, key)"),
		run: "TestAWriteByAnotherProcessVoidsAFetch|TestVersions/rueidis-aside",
	},
	{
		name:    "no-heartbeat",
		promise: "G8",
		edits:   change("lease.go", "\tl.aside.beat.wake()\n", ""),
		run:     "TestALongFetchKeepsItsLease",
	},
	{
		name:    "own-writes-do-not-poison",
		promise: "G9",
		edits:   change("near.go", "\tif n := s.reads[key]; n != nil {\n\t\tn.poison = n.sent\n\t}", "\t_ = s.reads[key]"),
		run:     "TestAReplyThatAWriteHasOvertakenIsNotKept|TestRepliesFromBeforeAPoisonAreNotKept",
	},
	{
		name:    "own-set-leaves-the-near-copy",
		promise: "G9",
		edits: change("aside.go", "\ta.write(key)\n\tdefer a.forget(key)\n\treturn a.remote.set(",
			"\treturn a.remote.set("),
		run: "TestOwnWritesAreReadThoughRedisNeverTellsOfThem",
	},
	{
		name:    "own-delete-leaves-the-near-copy",
		promise: "G9",
		edits: change("aside.go", "\ta.write(key)\n\tdefer a.forget(key)\n\treturn a.remote.delete(",
			"\treturn a.remote.delete("),
		run: "TestOwnWritesAreReadThoughRedisNeverTellsOfThem",
	},
	{
		name:    "reads-of-before-a-write-are-joined",
		promise: "G9",
		edits:   change("aside.go", "\tdelete(s.reading, key)\n\tif c := s.changes[key]", "\tif c := s.changes[key]"),
		run:     "TestAProcessReadsItsOwnWrites",
	},
	{
		name:    "invalidations-are-ignored",
		promise: "G10",
		edits:   change("near.go", "\t\t\tcache.invalidated(k)\n", "\t\t\t_ = k\n"),
		run:     "TestAnInvalidationIsReportedForWhatWasKept|TestNearCopiesGoWhenRedisForgets",
	},
	{
		name:    "dead-connection-is-believed",
		promise: "G10",
		edits:   change("near.go", "\told.over.Store(true)\n", ""),
		run:     "TestADeadConnectionKeepsNothing|TestAnInvalidationOfAllEndsTheWatch",
	},
	{
		name:    "dead-connection-keeps-replies",
		promise: "G10",
		edits:   change("near.go", "\tc.dead.Store(true)\n", ""),
		run:     "TestADeadConnectionKeepsNothing",
	},
	{
		name:    "late-replies-are-believed",
		promise: "G10",
		edits:   change("near.go", "case !c.late.Swap(true):", "case false:"),
		run:     "TestALateReplyEndsTheWatch",
	},
	{
		name:    "near-copies-outlive-local-ttl",
		promise: "G10",
		edits: []edit{
			{"aside.go", "until := a.clock.deadline(a.clock.now(), a.ttl)", "until := a.clock.deadline(a.clock.now(), NoExpiry)"},
		},
		run: "TestALocalTTLBoundsANearCopy",
	},
}
