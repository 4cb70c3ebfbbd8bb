package main

import "time"

// postgresMutants break the feeds of a PostgreSQL.
var postgresMutants = []mutant{
	{
		name:    "postgres-a-change-is-told-before-it-is-seen",
		promise: "G31",
		edits:   change("postgres/visible.go", "xids = slices.DeleteFunc(xids, now.sees)", "xids, _ = nil, now"),
		run:     "TestAChangeIsToldWhenItCanBeSeen",
		in:      "postgres",
	},
	{
		name:    "postgres-truncate-is-nothing",
		promise: "feeds",
		edits:   change("postgres/row.go", `return nil, fmt.Errorf("postgres: TRUNCATE of %s, and its function returns nothing that covers the table", r.Table)`, "return nil, nil"),
		run:     "TestRows",
		in:      "postgres",
	},
	{
		name:    "postgres-an-unknown-column-is-empty",
		promise: "feeds",
		edits:   change("postgres/row.go", `!known && *r.unknown == ""`, `false && !known`),
		run:     "TestWhatTheLogDoesNotKnowIsLost",
		in:      "postgres",
	},
	{
		name:    "postgres-a-new-slot-has-missed-nothing",
		promise: "G31",
		edits:   change("postgres/decode.go", "return news{lost: errSlotIsNew}", "return news{}"),
		run:     "TestASlotThatTheServerHasGivenUpIsLost",
		in:      "postgres",
	},
	{
		name:    "postgres-lost-is-confirmed-at-once",
		promise: "G31",
		edits:   change("postgres/tell.go", "t.holdUntil = time.Now().Add(holdAfterLost)", "t.holdUntil = time.Time{}"),
		run:     "TestThatASlotIsNewIsToldByTheNextReader",
		in:      "postgres",
	},
	{
		name:    "postgres-a-standby-trusts-the-reader",
		promise: "G31",
		edits:   change("postgres/session.go", "s.reach(slot.confirmed)", "s.reach(slot.flushed)"),
		run:     "TestAStandbyIsAliveWhileTheReaderKeepsUp",
		in:      "postgres",
	},
	{
		name:    "postgres-what-is-read-is-confirmed",
		promise: "G31",
		edits:   change("postgres/stream.go", "pglogrepl.LSN(st.teller.confirm())", "pglogrepl.LSN(max(st.teller.confirm(), st.wanted.Load()))"),
		run:     "TestWhatWasReadAndNotToldIsToldByTheNextReader",
		in:      "postgres",
	},
	{
		name:    "postgres-a-slot-is-made-in-a-hurry",
		promise: "feeds",
		edits:   change("postgres/slot.go", `"SET lock_timeout = 0"`, `"SET lock_timeout = 100"`),
		run:     "TestASlotIsMadeWhenOpenTransactionsHaveEnded",
		in:      "postgres",
		within:  90 * time.Second,
	},
	{
		name:    "postgres-the-outbox-misses-a-late-commit",
		promise: "G31",
		edits:   change("postgres/outbox.go", "NOT pg_visible_in_snapshot(xid, $1::pg_snapshot)`", "xid >= pg_snapshot_xmax($1::pg_snapshot)`"),
		run:     "TestAnOutboxTellsWhatWasCommitted",
		in:      "postgres",
	},
	{
		name:    "postgres-a-change-ends-before-the-commit",
		promise: "G28",
		edits:   change("postgres/tx.go", "\tsettled = true\n\treturn tx.Commit(ctx)", "\tsettled = true\n\t_ = change.End(ctx)\n\treturn tx.Commit(ctx)"),
		run:     "TestInTx$",
		in:      "postgres",
	},
	{
		name:    "postgres-a-failed-commit-has-written-nothing",
		promise: "G28",
		edits:   change("postgres/tx.go", "\tsettled = true\n\treturn tx.Commit(ctx)", "\tsettled = true\n\tif err = tx.Commit(ctx); err != nil {\n\t\tchange.Discard()\n\t}\n\treturn err"),
		run:     "TestInTx$",
		in:      "postgres",
	},
}
