package main

// sourceMutants break what is promised of the source: G32, Refresh, MaxAge and Warm.
var sourceMutants = []mutant{
	{
		name:    "source-no-limit",
		promise: "G32",
		edits:   change("backend.go", "newLimit(cfg.MaxFetches, cfg.FetchQueue)", "newLimit(1000*cfg.MaxFetches, cfg.FetchQueue)"),
		run:     "TestConformance/memory/G32_there_are_never",
	},
	{
		name:    "source-a-fetch-inside-takes-a-second-place",
		promise: "G32",
		edits:   change("fetch_place.go", "\tcase s.under.footing.stands(l):\n\t\treturn nil, true\n", ""),
		run:     "TestConformance/memory/G32_a_fetch_inside",
	},
	{
		name:    "source-no-place-is-lent-to-what-queues",
		promise: "G32",
		edits:   change("flight_waits.go", "\tf.lend(g)\n", ""),
		run:     "TestConformance/memory/G32_nor_does_one_that_had_begun",
	},
	{
		name:    "source-the-queue-counts-as-fetching",
		promise: "G32",
		edits:   change("fetch_place.go", "if !f.mayWait(cancel) {", "if f.isOver() {"),
		run:     "TestConformance/memory/G32_the_queue_is_no_part",
	},
	{
		name:    "source-what-no-caller-waits-for-queues-on",
		promise: "G32",
		edits:   change("footing.go", "if f != nil && f.callers.Add(-1) == 0 {", "if f != nil && f.callers.Add(-1) < 0 {"),
		run:     "TestConformance/memory/G32_callers_who_all_leave",
	},
	{
		name:    "source-refreshes-take-all-places",
		promise: "G32",
		edits:   change("limit.go", "semaphore.NewWeighted(int64(most+1) / 2)", "semaphore.NewWeighted(int64(most))"),
		run:     "TestConformance/memory/G32_a_refresh_does_not_wait",
	},
	{
		name:    "source-a-stale-value-waits",
		promise: "G32",
		edits:   change("fetch_place.go", "l.queue <= 0 || c.allStale(s) {", "l.queue <= 0 {"),
		run:     "TestConformance/memory/G32_a_stale_value",
	},
	{
		name:    "source-deadlines-do-not-count",
		promise: "G32",
		edits:   change("limit.go", "return now.Add(l.expected(now)).After(deadline)", "return now.After(deadline)"),
		run:     "TestConformance/memory/G32_a_caller_whose_deadline",
	},
	{
		name:    "source-a-place-ends-with-the-flight",
		promise: "G32",
		edits:   change("fetch_place.go", "\tif p != nil {\n\t\ts.under.footing.add([]*limit{l})\n", "\tif p != nil {\n\t\tfor _, f := range s.of {\n\t\t\tgo func() { <-f.done; p.giveBack() }()\n\t\t}\n\t\ts.under.footing.add([]*limit{l})\n"),
		run:     "TestConformance/memory/G32_a_fetch_that_outlives",
	},
	{
		name:    "source-refresh-takes-what-is-kept",
		promise: "refresh",
		edits:   change("age.go", "aged: true, anew: true, notBefore", "notBefore"),
		run:     "TestConformance/memory/refresh_a_Refresh_keeps",
	},
	{
		name:    "source-refresh-joins-an-older-fetch",
		promise: "refresh",
		edits:   change("singleflight.go", "q.aged && f.born < q.notBefore", "false"),
		run:     "TestConformance/memory/refresh_a_Refresh_does_not_join",
	},
	{
		name:    "source-max-age-lets-hits-pass",
		promise: "age",
		edits:   change("inspect.go", " || ages.used.Load() {", " {"),
		run:     "TestConformance/memory/age_MaxAge_accepts",
	},
	{
		name:    "source-max-age-takes-stale-values",
		promise: "age",
		edits:   change("age.go", "\tif q.refuses(&q.found) {\n\t\treturn &found[T]{state: absent}\n\t}\n", ""),
		run:     "TestConformance/memory/age_a_stale_value",
	},
	{
		name:    "source-warm-gives-up-without-a-place",
		promise: "warm",
		edits:   change("warm.go", "return !errors.Is(f.err, ErrOverloaded) && f.err != errAbandoned, f.err", "return true, f.err"),
		run:     "TestConformance/(memory|rueidis|rueidis-aside)/warm_",
	},
}
