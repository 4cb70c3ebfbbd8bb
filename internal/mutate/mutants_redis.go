package main

import "time"

// redisMutants break what is promised of a Redis that does not work: G11.
var redisMutants = []mutant{
	{
		name:    "no-op-timeout",
		promise: "G11",
		edits: change("deadline.go", "\tif ctx.Done() == nil {\n\t\treturn t.share(now), nil\n\t}\n\treturn context.WithDeadline(ctx, now.Add(t.timeout))",
			"\treturn ctx, nil"),
		run:    "TestCallersDoNotPayForABrokenRedis/frozen$/rueidis$",
		within: 20 * time.Second, // it waits for ever
	},
	{
		name:    "each-operation-has-an-op-timeout-of-its-own",
		promise: "G11",
		edits:   change("allowance.go", "if a.several || a.used >= a.limit/8 {", "if false {"),
		run:     "TestASlowRedisCostsOneOpTimeout",
		within:  30 * time.Second,
	},
	{
		name:    "the-last-request-has-no-time",
		promise: "G11",
		edits:   change("allowance.go", "max(a.limit-a.used, leastOutlay)", "a.limit-a.used"),
		run:     "TestTheLastRequestOfAFlightIsSent",
		within:  60 * time.Second,
	},
	{
		name:    "lease-is-given-up-before-the-callers-are-told",
		promise: "G11",
		edits:   change("chores.go", "\tgo func() { // ends", "\tfunc() { // ends"),
		run:     "TestGivingUpALeaseKeepsNobodyWaiting",
		within:  30 * time.Second,
	},
	{
		name:    "reads-fail-with-their-connection",
		promise: "G11",
		edits:   change("operation.go", "if err == nil || !isLost(err) || n.closing.Load() {", "if err == nil || !patient || !isLost(err) || n.closing.Load() {"),
		run:     "TestReadsSurviveALostConnection",
	},
	{
		name:    "tls-of-an-option-stops-at-the-sentinels",
		promise: "G20",
		edits:   change("redis_options.go", "\t\to.Sentinel.TLSConfig = o.TLSConfig\n", "\t\t_ = o.TLSConfig\n"),
		run:     "TestTLSOfTheClientReachesSentinels|TestNoPasswordGoesOutBeforeTheHandshake",
		within:  30 * time.Second,
	},
	{
		name:    "a-unix-socket-in-a-url-knows-no-tls",
		promise: "G20",
		edits:   change("redis_options.go", "\to.DialCtxFn = nil // ", "\t// "),
		run:     "TestNoPasswordGoesOutBeforeTheHandshake|TestAURLOfAUnixSocketIsItsPath",
		within:  30 * time.Second,
	},
	{
		name:    "a-url-names-every-certificate",
		promise: "G20",
		edits:   change("redis_options.go", "\t\to.TLSConfig.ServerName = \"\" // ", "\t\t// "),
		run:     "TestEachConnectionChecksTheNameItDials",
	},
	{
		name:    "a-second-type-takes-the-name",
		promise: "G20",
		edits:   change("name_claim.go", "\t\tif mine.disturbs(other) {", "\t\tif false && mine.disturbs(other) {"),
		run:     "TestTwoTypesDoNotMeetUnderTheDefaultName|TestANameGivenTwiceIsForOneFormOfValues",
	},
	{
		name:    "a-closed-cache-keeps-its-name",
		promise: "G20",
		edits:   change("cache.go", "\t\tc.unclaim()\n", ""),
		run:     "TestTwoTypesDoNotMeetUnderTheDefaultName|TestCachesOfTwoBackendsDoNotMeetEither",
	},
	{
		name:    "a-cache-that-was-not-opened-keeps-its-name",
		promise: "G20",
		edits:   change("backend.go", "\t\tc.unclaim()\n", ""),
		run:     "TestAFailedOpenLeavesTheNameToOthers",
	},
	{
		name:    "the-log-does-not-name-a-refusal-of-tracking",
		promise: "G20",
		edits:   change("rueidis.go", "\tif isOneOf(errors.Unwrap(err), rueidis.ErrNoCache) {", "\tif false {"),
		run:     "TestARefusalOfTrackingAtAReconnectIsNamedInTheLog|TestErrorsAreDescribedWithoutQuotingAnybody",
		within:  30 * time.Second,
	},
	{
		name:    "a-dialer-of-the-users-is-not-told-the-name",
		promise: "G20",
		edits:   change("wires.go", "\tconfig.ServerName = host\n", "\t_ = host\n"),
		run:     "TestEachConnectionChecksTheNameItDials",
	},
	{
		name:    "nobody-waits-for-a-new-connection",
		promise: "G11",
		edits:   change("breaker.go", "if round == nil || !patient && !fresh {", "if round == nil || !patient && (fresh || !fresh) {"),
		run:     "TestReadsSurviveALostConnection|TestALostConnectionIsWaitedForBriefly",
	},
	{
		name:    "breaker-never-opens",
		promise: "G11",
		edits:   change("breaker.go", "\tif b.down.Load() || b.stopped {\n\t\treturn false\n\t}\n\tb.err", "\tif true {\n\t\treturn false\n\t}\n\tb.err"),
		run:     "TestCallersDoNotPayForABrokenRedis/frozen$/rueidis$",
	},
	{
		name:    "breaker-never-closes",
		promise: "G11",
		edits:   change("breaker.go", "\tif err == nil {\n\t\tb.err, b.round = nil, nil\n\t\tb.down.Store(false)\n\t\treturn true\n\t}", ""),
		run:     "TestBreakerProbesUntilTheBackendAnswers",
	},
	{
		name:    "redis-down-is-an-error",
		promise: "G11",
		edits:   change("lookup.go", "case err != nil && errors.Is(err, ErrClosed):", "case err != nil:"),
		run:     "TestCallersDoNotPayForABrokenRedis/refused$/rueidis$",
	},
	{
		name:    "redis-down-at-the-start-is-an-error",
		promise: "G11",
		edits:   change("conn.go", "if err != nil && hopeless(err) {", "if err != nil {"),
		run:     "TestCallersDoNotPayForABrokenRedis/down_at_start$/rueidis$",
	},
	{
		name:    "refused-lease-is-an-error",
		promise: "G11",
		edits: change("fetch.go", "\t\t\tf.failed = held.token == \"\"\n\t\t\treturn ready",
			"\t\t\tf.end(Result[T]{}, err)\n\t\t\treturn settled"),
		run: "TestALeaseThatIsRefusedMeansFetchingWithoutIt",
	},
	{
		name:    "caller-waits-behind-a-dial",
		promise: "G11",
		edits:   change("operation.go", "if n.load.begin(o.begun) || n.wires.unsettled.Load() > 0 {", "if n.load.begin(o.begun) && false {"),
		run:     "TestMoreCallersThanTheQueueHoldsLeaveAFrozenServerInTime",
		within:  20 * time.Second, // it makes them wait for ever
	},
	{
		name:    "reader-sleeps-before-what-waits-is-written",
		promise: "G11",
		edits:   change("wire.go", "\t\tw.awake.Store(false)\n\t\tw.flushAside()", "\t\tw.awake.Store(false)"),
		run:     "TestWhatWaitsIsWrittenBeforeTheReaderSleeps/nobody_asks",
		within:  10 * time.Second, // nobody ever writes it
	},
	{
		name:    "reader-waits-for-the-writer",
		promise: "G11",
		edits:   change("wire.go", "|| !w.mu.TryLock() {\n\t\treturn\n\t}", "{\n\t\treturn\n\t}\n\tw.mu.Lock()"),
		run:     "TestTheReaderGoesOnWhileTheWriterIsStuck",
		within:  10 * time.Second, // both wait for ever
	},
	{
		name:    "health-asks-for-new-keys",
		promise: "Health",
		edits:   change("contact.go", "n.checks.Add(1)%healthKeys", "n.checks.Add(1)"),
		run:     "TestHealthLeavesFewTrackedKeys",
	},
	{
		name:    "a-refused-handshake-is-an-answer",
		promise: "G11",
		edits: change("conn.go", "if ok && !notServing(re) && !refusesConnection(re) && n.wires.isConnected() {",
			"if ok && !notServing(re) {"),
		run: "TestRefusedConnectionsAreNoStorm/the_user_is_off/rueidis$",
		in:  "internal/answers",
	},
	{
		name:    "words-of-a-refusal-are-all-that-counts",
		promise: "G11",
		edits:   change("conn.go", "&& !refusesConnection(re) && n.wires.isConnected() {", "&& !refusesConnection(re) {"),
		run:     "TestARefusalInAHandshakeIsNoAnswer.*/.*own_words.*/rueidis$",
		in:      "internal/answers",
	},
	{
		name:    "close-waits-for-credentials",
		promise: "G17",
		edits:   change("wires.go", "case <-ws.untilClosed().Done():\n\t\t\treturn rueidis", "case <-context.Background().Done():\n\t\t\treturn rueidis"),
		run:     "TestWhatHangsWhileConnecting.*/rueidis$/AuthCredentialsFn",
		in:      "internal/answers",
	},
	{
		name:    "a-demoted-master-is-kept",
		promise: "G11",
		edits:   change("operation.go", "if wantsMaster(re) {", "if wantsMaster(re) && false {"),
		run:     "TestADemotedMasterIsLeft.*/READONLY/rueidis$",
		in:      "internal/answers",
	},
	{
		name:    "moved-without-end",
		promise: "G11",
		edits:   change("conn.go", "*moves <= 0 || *moves > maxRedirections {", "*moves > maxRedirections {"),
		run:     "TestALookupThatIsSentToAndFroEnds/rueidis$",
		in:      "internal/answers",
	},
	{
		name:    "a-node-of-a-cluster-opens",
		promise: "G20",
		edits:   change("contact.go", "case isClusterReply(re) && n.option.ForceSingleClient:", "case false:"),
		run:     "TestTheNodeOfAClusterIsToldAtTheStart",
		in:      "internal/answers",
	},
	{
		name:    "health-asks-for-no-scripts",
		promise: "Health",
		edits:   change("aside.go", "a.conn.works(ctx, a.name, needsOfAside)", "a.conn.works(ctx, a.name, needs[:2])"),
		run:     "TestHealthAsksForWhatAFillNeeds",
		in:      "internal/answers",
	},
}
