package main

// tagMutants break what is promised of tags: G23 to G25. Each rule of the protocol is among them.
var tagMutants = []mutant{
	{
		name:    "tags-what-was-invalidated-is-forgotten",
		promise: "G23",
		edits:   change("tags_memory.go", "stamp{memoryEpoch, b.ended[tag]}", "stamp{memoryEpoch, 0}"),
		run:     "TestConformance/memory/G23_what_a_flight",
	},
	{
		name:    "tags-invalidation-ends-no-mark",
		promise: "G23",
		edits:   change("tags_memory.go", "\t\t\tm.over.Store(true)\n", "\t\t\t_ = m\n"),
		run:     "TestConformance/memory/G23_what_was_fetched",
	},
	{
		name:    "tags-the-clock-is-read-after-the-fetch",
		promise: "G23",
		edits:   change("tag.go", "lists, first.under.vouchedAsOf(first.asOf), keptFor", "lists, c.tags.asOf(ctx), keptFor"),
		run:     "TestConformance/(memory|rueidis|rueidis-aside)/G23_what_a_flight",
	},
	{
		name:    "tags-late-joiners-take-the-result",
		promise: "G23",
		edits:   change("singleflight.go", "q.late, q.outdated = f.sealed, ", "q.late, q.outdated = false, "),
		run:     "TestConformance/memory/G23_nor_does_one",
	},
	{
		name:    "tags-joiners-take-what-is-in-doubt",
		promise: "G23",
		edits:   change("singleflight.go", "return !q.again && (q.late || f.doubtful)", "return !q.again && q.late"),
		run:     "TestConformance/memory/G23_a_caller_that_comes",
	},
	{
		name:    "tags-joiners-of-a-batch-take-what-is-in-doubt",
		promise: "G23",
		edits:   change("batch_fetch.go", "(j.flight.mayBeOld(&missing[i]) || ", "(false || "),
		run:     "TestConformance/memory/G23_the_same_in_a_batch",
	},
	{
		name:    "tags-a-void-entry-is-not-replaced",
		promise: "G23",
		edits:   change("memory.go", "current.deadline <= m.clock.now() || current.isVoid()", "current.deadline <= m.clock.now()"),
		run:     "TestConformance/memory/G23_what_was_fetched",
	},
	{
		name:    "tags-of-a-collected-fetch-are-lost",
		promise: "G23",
		edits:   change("batcher.go", "\t\tif tags := c.context.given(); len(tags) > 0 {", "\t\tif tags := c.context.given(); false {"),
		run:     "TestConformance/memory/G23_values_of_batches",
	},
	{
		name:    "tags-a-missing-mark-counts-as-never-invalidated",
		promise: "G24",
		edits:   change("tagging.go", "\t\tif m == nil || !t.asOf.covers(m.at) {", "\t\tif m == nil {\n\t\t\tm = &tagMark{at: t.asOf}\n\t\t}\n\t\tif !t.asOf.covers(m.at) {"),
		run:     "TestConformance/rueidis/G24_nothing_is_kept",
	},
	{
		name:    "tags-a-mark-is-made-with-an-older-time",
		promise: "G23",
		edits:   change("tags_redis.go", "\t\tnear = &tagMark{at: made.at}\n", "\t\tnear = &tagMark{at: stamp{made.at.epoch, 0}}\n"),
		run:     "TestConformance/rueidis/G23_what_a_flight",
	},
	{
		name:    "tags-invalidation-sets-no-mark",
		promise: "G23",
		edits:   change("tags_redis.go", "b.keys(tags), newEpoch()).ToString()", "b.keys(nil), newEpoch()).ToString()"),
		run:     "TestConformance/rueidis/G23_what_was_fetched",
	},
	{
		name:    "tags-epochs-are-the-same",
		promise: "G24",
		edits:   change("tags_redis.go", "\t_, _ = rand.Read(b[:]) // it never fails\n", "\t_ = rand.Reader\n"),
		run:     "TestConformance/rueidis/G24_nothing_is_kept",
	},
	{
		name:    "tags-are-not-looked-at-on-redis",
		promise: "G24",
		edits:   change("freshness.go", "\tif valid, err := c.valid(ctx, f.entry); !valid {", "\tif valid, err := c.valid(ctx, f.entry); !valid && false {"),
		run:     "TestConformance/rueidis/G24_what_another",
	},
	{
		name:    "tags-a-void-entry-is-taken-for-one-that-another-has-filled",
		promise: "G23",
		edits:   change("lease.go", "\treadable := err == nil\n\tif readable {", "\treadable := err == nil\n\tif false {"),
		run:     "TestConformance/rueidis-aside/G23_what_was_fetched",
	},
	{
		name:    "tags-own-near-marks-are-left-to-redis",
		promise: "G23",
		edits:   change("tags_redis.go", "\tdefer b.drop(tags)\n", ""),
		run:     "TestTagsAreVoidBeforeRedisTells",
	},
	{
		name:    "tags-void-is-stale",
		promise: "G25",
		edits:   change("freshness.go", "\t\treturn found[T]{state: absent, now: f.now}, c.backendError(err)", "\t\tf.state = stale\n\t\treturn f, c.backendError(err)"),
		run:     "TestConformance/memory/G25_",
	},
}
