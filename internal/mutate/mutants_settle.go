package main

// settleMutants break what is promised of replicas that lag behind.
var settleMutants = []mutant{
	{
		name:    "settle-a-removal-leaves-no-marker-in-redis",
		promise: "settle",
		edits:   change("rueidis_remove.go", "\tcase lays:\n", "\tcase lays && r.settle < 0:\n"),
		run:     "TestConformance/rueidis/settle_every_process",
	},
	{
		name:    "settle-a-removal-leaves-no-marker-here",
		promise: "settle",
		edits:   change("settle.go", "\t\tm.young[key] = now\n", "\t\t_, _ = key, now\n"),
		run:     "TestConformance/memory/settle_a_fetch_is_told",
	},
	{
		name:    "settle-a-removal-that-is-heard-of-leaves-no-marker",
		promise: "settle",
		edits:   change("suspend.go", "\t\tc.markers.lay(key)\n", ""),
		run:     "TestConformance/memory-bus/settle_a_process_that_hears",
	},
	{
		name:    "settle-markers-are-turned-over-too-early",
		promise: "settle",
		edits:   change("settle.go", "if now-m.turned < int64(m.lasts) {", "if now < m.turned {"),
		run:     "TestMarkersGoByThemselves",
	},
	{
		name:    "settle-what-is-fetched-is-kept-for-its-ttl",
		promise: "settle",
		edits:   change("fetch.go", "\tif s := f.found.settling; s != nil {\n\t\treturn c.settlingEntry(value, ttl, now, s)\n\t}\n", ""),
		run:     "TestConformance/memory/settle_what_is_fetched",
	},
	{
		name:    "settle-that-there-is-none-is-kept-for-its-ttl",
		promise: "settle",
		edits:   change("fetch.go", "deadline = min(deadline, s.until)", "_ = s"),
		run:     "TestConformance/memory/settle_what_is_fetched",
	},
	{
		name:    "settle-what-is-fetched-becomes-stale",
		promise: "settle",
		edits:   change("entry.go", "e.deadline == never || e.isShort()", "e.deadline == never"),
		run:     "TestConformance/(memory|rueidis)/settle_a_burst",
	},
	{
		name:    "settle-a-value-ends-its-marker-with-its-ttl",
		promise: "settle",
		edits:   change("rueidis.go", "\t\tdeadline = s.until\n", "\t\t_ = s.until\n"),
		run:     "TestConformance/(rueidis|rueidis-aside)/settle_a_short_ttl",
	},
	{
		name:    "settle-a-value-does-not-tell-of-its-marker",
		promise: "settle",
		edits:   change("stored.go", "\t\tf.putSettling(b, s)\n", "\t\t_ = s\n"),
		run:     "TestConformance/rueidis/settle_refreshes",
	},
	{
		name:    "settle-a-lease-takes-the-markers-place",
		promise: "settle",
		edits:   change("lease.go", "case isMarker(stands) && a.settles:", "case isMarker(stands) && a.settles && key == \"\":"),
		run:     "TestConformance/rueidis-aside/settle_a_short_ttl",
	},
	{
		name:    "settle-a-value-that-is-dropped-ends-its-marker",
		promise: "settle",
		edits:   change("rueidis_remove.go", "if s == nil {", "if s == nil || s.until > 0 {"),
		run:     "TestConformance/(rueidis|rueidis-aside)/settle_a_short_ttl",
	},
	{
		name:    "settle-near-copies-are-kept",
		promise: "settle",
		edits:   change("aside.go", "if isMark(data) || isSettling(data) {", "if isMark(data) {"),
		run:     "TestConformance/rueidis-aside/settle_one_process",
	},
	{
		name:    "settle-fetches-are-not-told",
		promise: "settle",
		edits:   change("fetch.go", "f.context.settling = c.noteSettling(f)", "c.noteSettling(f)"),
		run:     "TestConformance/memory/settle_(a_fetch|refreshes)",
	},
	{
		name:    "settle-batches-are-not-told",
		promise: "settle",
		edits:   change("batch_fetch.go", "under.settling = later(under.settling, c.noteSettling(f))", "c.noteSettling(f)"),
		run:     "TestConformance/memory/settle_refreshes",
	},
	{
		name:    "settle-batches-are-told-of-the-first-removal",
		promise: "settle",
		edits:   change("settle.go", "b.until > a.until", "b.until < a.until"),
		run:     "TestConformance/memory/settle_refreshes",
	},
	{
		name:    "settle-collected-fetches-are-not-told",
		promise: "settle",
		edits:   change("batcher.go", "col.context.settling = later(col.context.settling, m.settling)", "_ = m"),
		run:     "TestConformance/memory/settle_refreshes",
	},
	{
		name:    "settle-fetches-of-what-has-changed-are-not-told",
		promise: "settle",
		edits:   change("settle.go", "if c.cfg.Settle > 0 && change != nil &&", "if c.cfg.Settle < 0 && change != nil &&"),
		run:     "TestConformance/memory/settle_fetches_within",
	},
	{
		name:    "settle-fetches-within-others-are-told-of-theirs",
		promise: "settle",
		edits:   change("settle.go", "in != nil && in.outer == f {", "in != nil {"),
		run:     "TestConformance/memory/settle_fetches_within",
	},
	{
		name:    "settle-a-full-redis-refuses-removals",
		promise: "settle",
		edits:   change("rueidis_remove.go", "if by.isFull(err) {", "if by.isFull(err) && key == \"\" {"),
		run:     "TestARemovalNeedsNoMemory",
	},
	{
		name:    "settle-a-full-redis-refuses-removals-of-many",
		promise: "settle",
		edits:   change("rueidis_remove.go", "if err != nil && r.settle > 0 &&", "if err != nil && r.settle < 0 &&"),
		run:     "TestARemovalNeedsNoMemory",
	},
	{
		name:    "settle-clocks-are-taken-to-agree",
		promise: "settle",
		edits:   change("stored_settling.go", "age := min(max(present.UnixMilli()-at, 0), lasts)", "age := present.UnixMilli() - at"),
		run:     "TestAMarkerByAnotherClock",
	},
}
