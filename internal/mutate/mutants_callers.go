package main

// callerMutants are about those that wait for a fetch: what it may read of theirs, and which of them it serves.
var callerMutants = []mutant{
	{
		name:    "contexts-are-kept",
		promise: "G1",
		edits:   change("caller_values.go", "\tb.owner = nil\n", ""),
		run:     "TestAFetchReadsFromARecycledContextOnlyWhileItsCallerWaits",
	},
	{
		name:    "every-context-is-standard",
		promise: "G1",
		edits:   change("caller_values.go", `if path := t.PkgPath(); path != "context" && path != "os/signal" {`, "if t.Kind() != reflect.Struct {"),
		run:     "TestARefreshReadsNothingFromARecycledContext|TestWhichContextsAreStandard",
	},
	{
		name:    "a-full-batch-is-a-members",
		promise: "G3",
		edits:   change("batcher.go", "\t\tgo b.run(col) // ends", "\t\tb.run(col) // ends"),
		run:     "TestAFullBatchEndsWithTheCacheAndAtFetchTimeout",
	},
	{
		name:    "a-batch-has-a-key-twice",
		promise: "BindMany",
		edits:   change("batcher.go", "if !slices.Contains(col.keys.list, key) {", "if true {"),
		run:     "TestABatchHasEachKeyOnce",
	},
	{
		name:    "a-batch-waits-beyond-its-fetch",
		promise: "BindMany",
		edits:   change("batcher.go", "b.MaxWait = min(b.MaxWait, c.cfg.FetchTimeout/2)", "_ = 0"),
		run:     "TestALongMaxWaitLeavesTimeForTheFetch",
	},
	{
		name:    "a-value-that-is-there-is-not-given",
		promise: "G2",
		edits:   change("lookup.go", "if f.isOver() { // both were ready", "if false { // both were ready"),
		run:     "TestAnAnswerThatIsThereIsGiven",
	},
	{
		name:    "who-started-counts-as-waiting",
		promise: "G19",
		edits:   change("flight_waits.go", "if f.parent == nil || !f.parent.waits.has(f) {", "if f.parent == nil {"),
		run:     "TestAFetchThatDoesNotWaitMayBeAskedFor",
	},
	{
		name:    "failures-stay-in-memory",
		promise: "ErrorCooldown",
		edits:   change("cooldown.go", "\tif !s.cooling {\n", "\tif false {\n"),
		run:     "TestLongKeysOfFailuresAreLetGo",
	},
	{
		name:    "a-panic-is-an-answer",
		promise: "G4",
		edits:   change("fetch.go", "isAny(err, c.opts.notFound)) && !isPanic(err)", "isAny(err, c.opts.notFound))"),
		run:     "TestAPanicIsNeverAnAnswerOfTheSource",
	},
	{
		name:    "another-caches-close-is-ones-own",
		promise: "StaleIfError",
		edits:   change("lookup.go", "errors.Is(err, errMoved) || c.isClosed() {", "errors.Is(err, errMoved) || errors.Is(err, ErrClosed) {"),
		run:     "TestStaleIfErrorCoversTheErrorOfAnotherCache",
	},
	{
		name:    "a-refresh-that-keeps-nothing",
		promise: "TTL",
		edits:   change("lookup.go", "if q.ttl > 0 { // otherwise", "if true { // otherwise"),
		run:     "TestALookupThatKeepsNothingRefreshesNothing",
	},
	{
		name:    "the-ttl-of-a-joiner-is-lost",
		promise: "TTL",
		edits:   change("singleflight.go", "f.joinedTTL = q.ttl", "_ = 0"),
		run:     "TestConformance/memory/TTL_a_caller",
	},
	{
		name:    "labels-of-the-last-flight",
		promise: "profiler labels",
		edits:   change("singleflight.go", "\tpprof.SetGoroutineLabels(f.context) //", "\t_ = pprof.Labels //"),
		run:     "TestAFetchHasTheProfilerLabelsOfItsCaller",
	},
	{
		name:    "late-values-count-as-discarded",
		promise: "Stats",
		edits:   change("fetch.go", "case err == nil && f.isTimedOut():", "case err == nil && false:"),
		run:     "TestADiscardedValueIsOneThatAWriteHasOvertaken",
	},
}
