package main

// flightMutants break what is promised of fetches: G1 to G5, G19 and G22.
var flightMutants = []mutant{
	{
		name:    "leaders-context",
		promise: "G1",
		edits:   change("caller_values.go", "\t\treturn context.WithoutCancel(ctx), nil\n", "\t\treturn ctx, nil\n"),
		run:     "TestConformance/memory/G1_",
	},
	{
		name:    "who-leaves-ends-the-fetch",
		promise: "G1",
		edits:   change("lookup.go", "case <-gone:\n", "case <-gone:\n\t\tf.end(Result[T]{}, ctx.Err())\n"),
		run:     "TestConformance/memory/G1_",
	},
	{
		name:    "fetch-context-is-not-detached",
		promise: "G1",
		edits:   change("caller_values.go", "\tl.values, l.loans[1] = root.guard(derived, waits)\n", "\tl.values = derived\n"),
		run:     "TestFetchContextIsDerived",
	},
	{
		name:    "waiter-stays",
		promise: "G2",
		edits:   change("lookup.go", "gone := ctx.Done()", "var gone <-chan struct{}"),
		run:     "TestConformance/memory/G2_",
	},
	{
		name:    "fetch-timeout-not-enforced",
		promise: "G3",
		edits:   change("flight_deadlines.go", "for _, f := range due {", "for _, f := range due[:0] {"),
		run:     "TestConformance/memory/G3_",
	},
	{
		name:    "late-fetch-is-stored",
		promise: "G3",
		edits:   change("flight_deadlines.go", "\t\t\tf.void = true\n\t\t\tdue = append(due, f)", "\t\t\tdue = append(due, f)"),
		run:     "TestConformance/memory/G3_",
	},
	{
		name:    "late-fetch-keeps-its-key",
		promise: "G3",
		edits:   change("singleflight.go", "\tif s.joinable[f.key] == f {\n\t\ts.detachLocked(f.key)\n\t}", ""),
		run:     "TestConformance/memory/G3_",
	},
	{
		name:    "panic-kills-the-process",
		promise: "G4",
		edits: []edit{
			{"fetch.go", "err = abnormal(recover())", "err = abnormal(nil)"},
			{"singleflight.go", "f.end(Result[T]{}, abnormal(recover()))", "f.end(Result[T]{}, ErrGoexit)"},
		},
		run: "TestConformance/memory/G4_a_panic",
	},
	{
		name:    "panic-as-goexit",
		promise: "G4",
		edits:   change("fetch.go", "err = abnormal(recover())", "recover()\n\t\t\terr = ErrGoexit"),
		run:     "TestConformance/memory/G4_a_panic",
	},
	{
		name:    "goexit-leaves-everybody-waiting",
		promise: "G4",
		edits: []edit{
			{"fetch.go", "err = abnormal(recover())", "r := recover()\n\t\t\tif r == nil {\n\t\t\t\treturn\n\t\t\t}\n\t\t\terr = abnormal(r)"},
			{"singleflight.go", "f.end(Result[T]{}, abnormal(recover()))", "if r := recover(); r != nil {\n\t\t\t\tf.end(Result[T]{}, abnormal(r))\n\t\t\t}"},
		},
		run: "TestConformance/memory/G4_a_Goexit",
	},
	{
		name:    "nobody-joins",
		promise: "G5",
		edits:   change("singleflight.go", "if f := s.joinable[q.key]; f != nil && f.context.footing.attend() {", "if f := s.joinable[q.key]; f != nil && false {"),
		run:     "TestConformance/memory/G5_",
	},
	{
		name:    "flight-does-not-look-again",
		promise: "G5",
		edits:   change("fetch.go", "if f.failed || f.shard.ended.Load() == f.ended {", "if true {"),
		run:     "TestALookUpThatHasJustMissedLooksAgain",
	},
	{
		name:    "look-up-counts-too-late",
		promise: "G5",
		edits:   change("lookup.go", "c.find(ctx, q.key, c.store.peek(q.key))", "c.find(ctx, q.key, nil)"),
		run:     "TestALookUpThatHasJustMissedLooksAgain",
	},
	{
		name:    "no-lease",
		promise: "G5",
		edits:   change("fetch.go", "if c.instant || f.failed || f.ttl <= 0 {", "if true {"),
		run:     "TestAColdKeyIsFetchedOnceByEightProcesses",
	},
	{
		name:    "own-key-is-not-noticed",
		promise: "G19",
		edits:   change("singleflight.go", "if inside.runs(g, q.key) {", "if false {"),
		run:     "TestConformance/memory/G19_",
	},
	{
		name:    "crossed-fetches-are-not-noticed",
		promise: "G19",
		edits:   change("flight_waits.go", "if g.reaches(f) {", "if false {"),
		run:     "TestConformance/memory/G19_",
	},
	{
		name:    "no-other-keys",
		promise: "G19",
		edits:   change("flight_waits.go", "f.err.Load() == nil && f.fetches(key)", "f.err.Load() == nil"),
		run:     "TestConformance/memory/G19_",
	},
	{
		name:    "everybody-fetches-after-a-failure",
		promise: "G22",
		edits: change("lookup.go", "\tif f.err != nil {\n\t\treturn c.insteadOf", `	if f.err != nil {
		if value, err := f.fetch(context.Background(), f.key); err == nil {
			return Result[T]{Value: value}, nil
		}
		return c.insteadOf`),
		run: "TestConformance/memory/G22_",
	},
	{
		name:    "no-cooldown",
		promise: "G22",
		edits:   change("singleflight.go", "g.noteFailure(f, err)", ""),
		run:     "TestConformance/memory/G22_",
	},
}
