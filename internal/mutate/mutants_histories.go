package main

// historyMutants are broken caches that the checks of whole histories must find by themselves: each of them
// breaks what the case of the suite that names it would find as well, and shows that the histories do.
var historyMutants = []mutant{
	{
		name:    "histories-of-a-flight-that-is-not-voided",
		promise: "G6",
		edits:   change("fence.go", "\t\tf.void, f.overtaken = true, true\n\t\ts.detachLocked(key)", "\t\ts.detachLocked(key)"),
		run:     "TestLinearizability/memory",
	},
	{
		name:    "versions-of-a-flight-that-is-not-voided",
		promise: "G6",
		edits:   change("fence.go", "\t\tf.void, f.overtaken = true, true\n\t\ts.detachLocked(key)", "\t\ts.detachLocked(key)"),
		run:     "TestVersions/memory",
	},
	{
		name:    "histories-of-a-flight-that-is-not-detached",
		promise: "G6",
		edits:   change("fence.go", "\t\tf.void, f.overtaken = true, true\n\t\ts.detachLocked(key)", "\t\tf.void, f.overtaken = true, true"),
		run:     "TestLinearizability/memory",
	},
	{
		name:    "versions-of-a-flight-that-is-not-detached",
		promise: "G6",
		edits:   change("fence.go", "\t\tf.void, f.overtaken = true, true\n\t\ts.detachLocked(key)", "\t\tf.void, f.overtaken = true, true"),
		run:     "TestVersions/memory",
	},
	{
		name:    "histories-of-two-fetches-at-a-time",
		promise: "G5",
		edits:   change("singleflight.go", "if f := s.joinable[q.key]; f != nil && f.context.footing.attend() {", "if f := s.joinable[q.key]; f != nil && false {"),
		run:     "TestLinearizability/memory",
	},
	{
		name:    "histories-of-fills-that-are-lost",
		promise: "G5",
		edits:   change("memory.go", "return current == nil || current == l.seen ||", "return len(key)+int(e.deadline)%3 < 0 && current == l.seen ||"),
		run:     "TestLinearizability/memory",
	},
	{
		name:    "histories-in-redis-of-a-set-that-fences-nothing",
		promise: "G7",
		edits: change("cache.go", "\tw, err := c.fence(ctx, key, false)\n\tdefer c.unfence(key, w)\n\tif err == nil {\n\t\terr = c.beforeRemoval(ctx, []string{key}, false)\n\t}\n\tif err != nil {\n\t\treturn err\n\t}\n\terr = c.writeError(c.store.set(",
			"\terr = c.writeError(c.store.set("),
		run: "TestLinearizability/rueidis$",
	},
	{
		name:    "versions-in-redis-of-a-set-that-fences-nothing",
		promise: "G7",
		edits: change("cache.go", "\tw, err := c.fence(ctx, key, false)\n\tdefer c.unfence(key, w)\n\tif err == nil {\n\t\terr = c.beforeRemoval(ctx, []string{key}, false)\n\t}\n\tif err != nil {\n\t\treturn err\n\t}\n\terr = c.writeError(c.store.set(",
			"\terr = c.writeError(c.store.set("),
		run: "TestVersions/rueidis$",
	},
	{
		name:    "versions-of-a-fill-that-does-not-compare",
		promise: "G8",
		edits: change("lease.go", "n, err := a.script(ctx, &fillScript, k, l.token, value, px)\n\t\treturn n == 1, err",
			"err := a.remote.write(ctx, key, &e, l.tags, nil, took, false)\n\t\treturn err == nil, err"),
		run: "TestVersionsOfTwoProcesses",
	},
	{
		name:    "histories-of-a-fill-that-neither-side-checks",
		promise: "G7",
		edits: []edit{
			{"fence.go", "\tif f.void || s.closed {\n\t\ts.mu.Unlock()", "\tif s.closed {\n\t\ts.mu.Unlock()"},
			{
				"lease.go", "n, err := a.script(ctx, &fillScript, k, l.token, value, px)\n\t\treturn n == 1, err",
				"err := a.remote.write(ctx, key, &e, l.tags, nil, took, false)\n\t\treturn err == nil, err",
			},
		},
		run: "TestLinearizability/rueidis-aside",
	},
}
