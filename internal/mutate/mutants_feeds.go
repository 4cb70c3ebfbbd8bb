package main

// feedMutants break what is promised of feeds: G31.
var feedMutants = []mutant{
	{
		name:    "feeds-a-gap-is-ignored",
		promise: "G31",
		edits:   change("feed_source.go", "\tif s.lose(err); s.of.conn != nil {", "\tif s.of.conn != nil {"),
		run:     "TestConformance/memory/G31_after_Lost",
	},
	{
		name:    "feeds-alive-for-ever",
		promise: "G31",
		edits:   change("feed_source.go", "\ts.lose(errFeedSilent)\n", "\t_ = errFeedSilent\n"),
		run:     "TestConformance/(memory|rueidis-aside)/G31_after_two_seconds",
	},
	{
		name:    "feeds-flights-are-not-voided",
		promise: "G31",
		edits:   change("suspend.go", "\t\tw, _ := c.fence(context.Background(), key, false) // the context does not end, so there is no error\n\t\tc.dropAliases(key)\n\t\tc.markers.lay(key)\n\t\tc.store.dropNear(key)\n\t\tc.unfence(key, w)\n", "\t\tc.store.dropNear(key)\n"),
		run:     "TestConformance/memory/G31_what_a_feed_tells_voids",
	},
	{
		name:    "feeds-a-gap-leaves-flights-alone",
		promise: "G31",
		edits:   change("repeats.go", "\tr.suspended = true\n\tr.weighLocked()\n\tr.mu.Unlock()\n\tr.of.withholdAll()\n", "\tr.suspended = true\n\tr.weighLocked()\n\tr.mu.Unlock()\n"),
		run:     "TestConformance/(memory|rueidis-aside)/G31",
	},
	{
		name:    "feeds-what-is-set-in-a-gap-is-kept",
		promise: "G31",
		edits:   change("memory.go", "if shut&1 != 0 || m.shut.Load() != shut ||", "if"),
		run:     "TestConformance/memory/G31_after_Lost",
	},
	{
		name:    "feeds-what-is-from-before-the-first-alive-counts",
		promise: "G31",
		edits:   change("feed_source.go", "\tif was == feedBegins {\n\t\ts.of.feeds.suspend(s.of)\n\t}\n\ts.of.feeds.resume(s.of)\n", "\tif was != feedBegins {\n\t\ts.of.feeds.resume(s.of)\n\t}\n"),
		run:     "TestConformance/memory/G31_what_was_kept_before",
	},
	{
		name:    "feeds-a-late-cache-keeps-on",
		promise: "feeds",
		edits:   change("feed_source.go", "\tif fs.lost > 0 {\n\t\tm.suspend()\n\t}\n", ""),
		run:     "TestConformance/(memory|rueidis)/feeds_a_cache_that_is_opened",
	},
	{
		name:    "feeds-lost-leaves-what-redis-holds",
		promise: "feeds",
		edits:   change("feed_source.go", "s.lose(err); s.of.conn != nil {", "s.lose(err); false {"),
		run:     "TestConformance/rueidis/feeds_what_Redis_holds",
	},
	{
		name:    "feeds-one-that-is-alive-is-enough",
		promise: "G31",
		edits:   change("feed_source.go", "\tif fs.lost--; fs.lost > 0 {\n\t\treturn\n\t}\n", "\tfs.lost--\n"),
		run:     "TestConformance/memory/G31_one_of_several",
	},
	{
		name:    "feeds-one-that-returns-is-trusted",
		promise: "feeds",
		edits:   change("feed_source.go", "\ts.telling.Lock()\n\tdefer s.telling.Unlock()\n\ts.lose(err)\n", "\t_ = err\n"),
		run:     "TestConformance/memory/feeds_one_that_returns",
	},
}

// busMutants break what the bus promises.
var busMutants = []mutant{
	{
		name:    "bus-a-missed-message-is-not-noticed",
		promise: "bus",
		edits: []edit{
			{"bus.go", "\tif !counted && !n.at.follows(last) {\n\t\tto.Lost(errBusGap)\n\t}\n", ""},
			{"bus.go", "\tif !b.await(ctx, at) {\n\t\treturn errBusBehind\n\t}\n", ""},
		},
		run: "TestABusNoticesWhatItMisses",
	},
	{
		name:    "bus-a-lost-count-is-not-noticed",
		promise: "bus",
		edits:   change("bus.go", "\t\tb.restart()\n\t\tto.Lost(errBusForgot)\n", ""),
		run:     "TestABusNoticesWhatItMisses/a_flush",
	},
	{
		name:    "bus-a-process-drops-what-it-has-set-itself",
		promise: "bus",
		edits:   change("bus.go", "\tif n.sender != b.own {\n\t\tb.carryOut(n.items, to)\n\t}\n", "\tb.carryOut(n.items, to)\n"),
		run:     "TestABusTellsTheOtherProcesses",
	},
	{
		name:    "bus-deletes-are-not-told",
		promise: "bus",
		edits:   change("bus_store.go", "\ts.Delete(key)\n\treturn s.bus.tell(ctx, []string{s.ref(key)})\n", "\ts.Delete(key)\n\treturn nil\n"),
		run:     "TestABusTellsTheOtherProcesses|TestABusVoidsFetches",
	},
	{
		name:    "bus-clear-is-not-told",
		promise: "bus",
		edits:   change("bus_store.go", "\treturn s.bus.tell(ctx, []string{clearedRef + s.name})\n", "\treturn nil\n"),
		run:     "TestABusTellsTheOtherProcesses",
	},
	{
		name:    "bus-tags-are-not-told",
		promise: "bus",
		edits:   change("bus_store.go", "\terr := t.tell(ctx, tags)\n", "\terr := error(nil)\n"),
		run:     "TestABusTellsTheOtherProcesses",
	},
	{
		name:    "bus-what-comes-before-the-count-is-lost",
		promise: "bus",
		edits:   change("bus.go", "\t\tb.early = append(b.early, n)\n", ""),
		run:     "TestABusTakesWhatComesEarly",
	},
	{
		name:    "bus-alive-is-from-when-it-was-answered",
		promise: "bus",
		edits:   change("feed_source.go", "s.revive(feedSilence - time.Since(at))", "s.revive(feedSilence)"),
		run:     "TestAnAnswerThatWasLongUnderWayProvesLess",
	},
}
