package main

// changeMutants break what is promised of changes: G26 to G28.
var changeMutants = []mutant{
	{
		name:    "changes-are-removed-before-the-commit",
		promise: "G28",
		edits: []edit{
			{"change.go", "\tp, fresh, tags := c.note(b, named)\n", "\tp, fresh, tags := c.note(b, named)\n\t_ = b.removeChanged(ctx, p)\n"},
			{"change.go", "\tif remove {\n\t\terr = c.removeLocked(ctx)\n\t}\n", ""},
		},
		run: "TestConformance/(memory|rueidis)/G2[68]",
	},
	{
		name:    "changes-fences-are-not-raised",
		promise: "G26",
		edits:   change("change.go", "unfence, err := m.fenceAllOf(ctx, []string{k.key})", "unfence, err := m.fenceAllOf(ctx, nil)"),
		run:     "TestConformance/memory/G26",
	},
	{
		name:    "changes-fetches-inside-are-stored",
		promise: "G27",
		edits:   change("lookup.go", "\tif changeOf(ctx) != nil {\n\t\treturn c.fetchInside(ctx, &q)\n\t}\n", ""),
		run:     "TestConformance/memory/G2[67]",
	},
	{
		name:    "changes-batches-inside-are-stored",
		promise: "G27",
		edits:   change("batch.go", "\tif changeOf(ctx) != nil {\n\t\tc.fetchManyInside(ctx, m, missing, fetch)\n\t\treturn m.outcome()\n\t}\n", ""),
		run:     "TestConformance/memory/G27_so_do_batches",
	},
	{
		name:    "changes-collected-fetches-inside-are-shared",
		promise: "G27",
		edits:   change("lookup.go", "\tif l.alone != nil && changeOf(ctx) != nil {\n\t\tfetch, collects = l.alone, false\n\t}\n", ""),
		run:     "TestConformance/memory/G27_so_do_batches",
	},
	{
		name:    "changes-what-has-changed-is-found-inside",
		promise: "G27",
		edits:   change("change_keys.go", "ch != nil && ch.has(c.backend, c.cfg.Name, key)", "ch != nil && false"),
		run:     "TestConformance/(memory|rueidis|rueidis-aside)/G27_a_lookup_inside",
	},
	{
		name:    "changes-end-is-skipped-when-do-fails",
		promise: "G28",
		edits:   change("change_tx.go", "\t\tif failed := change.End(ctx); err == nil && settled {", "\t\tif !settled {\n\t\t\tchange.Discard()\n\t\t}\n\t\tif failed := change.End(ctx); err == nil && settled {"),
		run:     "TestInTx",
	},
	{
		name:    "changes-end-before-the-commit",
		promise: "G28",
		edits:   change("change_tx.go", "\tsettled = true\n\treturn tx.Commit()\n", "\tsettled = true\n\t_ = change.End(ctx)\n\treturn tx.Commit()\n"),
		run:     "TestInTx",
	},
	{
		name:    "changes-an-unknown-outcome-removes-nothing",
		promise: "G28",
		edits:   change("change_tx.go", "\tsettled = true\n\treturn tx.Commit()\n", "\tsettled = true\n\tif err = tx.Commit(); err != nil {\n\t\tchange.Discard()\n\t}\n\treturn err\n"),
		run:     "TestInTx",
	},
	{
		name:    "changes-lookups-inside-join-fetches-of-others",
		promise: "G26",
		edits:   change("change_lookup.go", "\tvar err error\n\tc.setAge(ctx, q)\n", "\tif s := c.flights.shard(q.key); s.active.Load() > 0 {\n\t\tq.shard = s\n\t\treturn c.fetchOrJoin(ctx, q)\n\t}\n\tvar err error\n\tc.setAge(ctx, q)\n"),
		run:     "TestConformance/memory/G26_no_caller",
	},
	{
		name:    "changes-warm-stores-inside",
		promise: "G27",
		edits:   change("warm.go", "case changeOf(ctx) != nil:", "case false:"),
		run:     "TestConformance/memory/G27_Warm",
	},
	{
		name:    "changes-a-removal-that-fails-is-forgotten",
		promise: "G28",
		edits:   change("mutate.go", "\t\tc.repeats.add(failed)\n", ""),
		run:     "TestEndIsTriedAgain|TestMutateLosesNoRemoval",
	},
	{
		name:    "changes-tags-are-not-held",
		promise: "G26",
		edits:   change("change.go", "\t\tb.tags.hold(tags)\n", "\t\t_ = tags\n"),
		run:     "TestConformance/(memory|rueidis)/G26_nor_of_tags",
	},
	{
		name:    "changes-discard-removes",
		promise: "changes",
		edits:   change("change.go", "\t\tc.releaseLocked(!remove)\n", "\t\tc.releaseLocked(false)\n"),
		run:     "TestConformance/memory/changes_Discard",
	},
	{
		name:    "changes-what-was-deleted-meanwhile-comes-back",
		promise: "changes",
		edits:   change("memory.go", "func(current *entry[T]) bool { return current == e }) == table.Stored", "nil) == table.Stored"),
		run:     "TestWhatADiscardKeepsAgainIsNotOlderThanADelete",
	},
	{
		name:    "changes-a-set-that-meets-the-beginning-is-dropped",
		promise: "changes",
		edits:   change("change_keys.go", "\t\t\tc.store.dropKept(key, e) //", "\t\t\tc.store.dropNear(key) //"),
		run:     "TestASetAtTheBeginningOfAMutateIsKept",
	},
	{
		name:    "changes-what-is-hidden-is-gone",
		promise: "changes",
		edits:   change("entry.go", "\t\treturn t.under\n", "\t\treturn t\n"),
		run:     "TestConformance/memory/changes_Discard",
	},
	{
		name:    "changes-what-is-hidden-is-a-hit",
		promise: "G27",
		edits:   change("freshness.go", "e.beside().holds(c.clock) &&", "(e.hidden() || e.beside().holds(c.clock)) &&"),
		run:     "TestConformance/memory/G27_a_lookup_inside",
	},
	{
		name:    "changes-one-left-open-holds-for-ever",
		promise: "changes",
		edits:   change("change.go", "\t\tc.timers = append(c.timers, time.AfterFunc(after, c.letGo))\n", ""),
		run:     "TestConformance/memory/changes_one_that_is_never_ended",
	},
	{
		name:    "changes-a-set-meanwhile-is-kept",
		promise: "G26",
		edits:   change("cache.go", "err == nil && c.changing.isClosed(key)", "err == nil && false"),
		run:     "TestConformance/memory/G26_from_Changed",
	},
}
