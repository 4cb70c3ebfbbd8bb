package main

import "time"

// lifeMutants break what is promised of dead processes, of Close and of memory: G15 to G17.
var lifeMutants = []mutant{
	{
		name:    "lease-does-not-expire",
		promise: "G15",
		edits:   change("lease.go", ".Nx().PxMilliseconds(a.lease.Milliseconds()).Build()", ".Nx().Build()"),
		run:     "TestALeaseExpiresThoughNobodyEverProlongedIt",
	},
	{
		name:    "lease-is-not-released",
		promise: "G4",
		edits:   change("singleflight.go", "\tif f.giveUp != nil {\n", "\tif false {\n"),
		run:     "TestConformance/rueidis-aside/G4_",
	},
	{
		name:    "waiter-does-not-look-again",
		promise: "G15",
		edits:   change("lease_wait.go", "time.NewTimer(min(a.lease/leaseLooks, known.until.Sub(now)))", "time.NewTimer(time.Hour)"),
		run:     "TestAWaiterLooksAgain",
	},
	{
		name:    "lease-that-does-not-expire-is-waited-for",
		promise: "G15",
		edits:   change("lease.go", "\tif !known.overdue {\n", "\tif true {\n"),
		run:     "TestWhatStandsInThePlaceOfALeaseIsReplaced",
		within:  10 * time.Second, // it waits for FetchTimeout
	},
	{
		name:    "longer-lease-is-taken-over",
		promise: "G15",
		edits:   change("lease_token.go", "min(max(ttl.Milliseconds(), 1), math.MaxUint32)", "30+0*math.MaxUint32"),
		run:     "TestAHolderWithALongerLeaseIsWaitedFor",
	},
	{
		name:    "close-does-not-wait-for-the-reaper",
		promise: "G16",
		edits:   change("reaper.go", "\tif done != nil {\n\t\t<-done\n\t}", "\t_ = done"),
		run:     "TestCloseWaitsForTheReaper|TestStopWaitsForTheCallThatRuns",
	},
	{
		name:    "close-leaves-its-leases",
		promise: "G15",
		edits:   change("cache.go", "c.chores.close(chorePatience)", "c.chores.close(0)"),
		run:     "TestConformance/rueidis-aside/G15_Close",
	},
	{
		name:    "close-leaves-the-reaper",
		promise: "G16",
		edits:   change("expiring.go", "\t\tt.reaper.stop()\n", ""),
		run:     "TestCloseWaitsForTheReaper",
	},
	{
		name:    "close-leaves-waiters",
		promise: "G16",
		edits:   change("singleflight.go", "\t\t\tf.end(Result[T]{}, ErrClosed)\n", "\t\t\t_ = f\n"),
		run:     "TestConformance/memory/G16_",
	},
	{
		name:    "closed-cache-answers",
		promise: "G16",
		edits:   change("cache.go", "\tif c.isClosed() {\n\t\treturn ErrClosed\n\t}\n\treturn checkKey(key)", "\treturn checkKey(key)"),
		run:     "TestConformance/memory/G16_",
	},
	{
		name:    "closed-clock-ticks",
		promise: "G16",
		edits:   change("clock.go", "\tc.ticker.stop()\n\tc.coarse.Store(ended)", ""),
		run:     "TestConformance/memory/G16_|TestAStoppedClockIsCertainOfNothing",
	},
	{
		name:    "flight-fills-after-close",
		promise: "G16",
		edits: []edit{
			{"fence.go", "\t\tdefer s.mu.Unlock()\n\t\tif f.void || s.closed {", "\t\tdefer s.mu.Unlock()\n\t\tif f.void {"},
			{"memory.go", "m.shut.Load() != shut || m.closed.Load() {", "m.shut.Load() != shut {"},
		},
		run: "TestConformance/memory/G16_",
	},
	{
		name:    "sets-survive-close",
		promise: "G16",
		edits:   change("memory.go", "m.shut.Load() != shut || m.closed.Load() {", "m.shut.Load() != shut {"),
		run:     "TestSetsDuringCloseLeaveNothing",
	},
	{
		name:    "reaper-removes-nothing",
		promise: "G16",
		edits:   change("expiring.go", "t.Sweep(t.clock.now(), t.reaper.stopping)", "t.Sweep(math.MinInt64, t.reaper.stopping)"),
		run:     "TestExpiredEntriesAreGoneWithinTwoIntervalsWithoutAccess",
	},
	{
		name:    "reaper-is-not-woken",
		promise: "G16",
		edits:   change("expiring.go", "\t\tt.reaper.wake()\n", ""),
		run:     "TestExpiredEntriesAreGoneWithinTwoIntervalsWithoutAccess",
	},
	{
		name:    "memory-is-not-bounded",
		promise: "G17",
		edits:   change("expiring.go", "Capacity: int64(max(most, 0)),", "Capacity: int64(max(most, 0)) * 0,"),
		run:     "TestConformance/memory/G17_|TestMaxEntriesBoundsAtEveryMoment",
	},
	{
		name:    "no-default-bound",
		promise: "G17",
		edits:   change("config.go", "\tsetDefault(&c.MaxEntries, 100_000)\n", ""),
		run:     "TestZeroConfigMeansTheDefaults",
	},
	{
		name:    "weights-do-not-count",
		promise: "G17",
		edits:   change("memory.go", "\tif weigh == nil || e.negative() {\n", "\tif true {\n"),
		run:     "TestWeightsAreBounded",
	},
	{
		name:    "a-refused-set-leaves-the-older-value",
		promise: "G17",
		edits:   change("cache.go", "\t\treturn c.removeRefused(ctx, key, err)\n", "\t\treturn err\n"),
		run:     "TestAnEntryThatIsTooHeavyIsRefusedVisibly",
	},
	{
		name:    "the-weigher-runs-under-a-lock",
		promise: "G17",
		edits: change("fetch.go", "\tif c.weigh != nil {\n\t\theld.weight, err = c.weigh(f.key, &e)\n\t}\n\tif err == nil {\n\t\t_, err = c.flights.fill(ctx, f, func(ctx context.Context) (err error) {\n",
			"\tif err == nil {\n\t\t_, err = c.flights.fill(ctx, f, func(ctx context.Context) (err error) {\n\t\t\tif c.weigh != nil {\n\t\t\t\theld.weight, err = c.weigh(f.key, &e)\n\t\t\t}\n"),
		run:    "TestTheWeigherRunsUnderNoLock",
		within: 10 * time.Second, // its Close waits
	},
	{
		name:    "near-copies-are-not-weighed",
		promise: "G17",
		edits:   change("aside_read.go", "\tif a.weigh == nil {\n", "\tif true {\n"),
		run:     "TestConformance/rueidis-aside/G17_",
	},
	{
		name:    "written-after-close",
		promise: "G16",
		edits:   change("rueidis.go", "\t\t\treturn ErrClosed\n", "\t\t\treturn write(o)\n"),
		run:     "TestAWriteThatWaitsForTheConnectionIsNotSentAfterClose",
	},
}
