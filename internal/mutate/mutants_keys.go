package main

// keyMutants break what is promised of scopes and aliases: G29 and G30.
var keyMutants = []mutant{
	{
		name:    "scope-dropped-from-lookups",
		promise: "G30",
		edits:   change("scope.go", "\tinner := appendKeyPart(append(appendKeyPart(room[:0], scope), ':'), q.key)\n", "\tinner := appendKeyPart(append(appendKeyPart(room[:0], scope[:0]), ':'), q.key)\n"),
		run:     "TestConformance/memory/G30",
	},
	{
		name:    "scope-dropped-from-batches",
		promise: "G30",
		edits:   change("scope.go", "\t\tinner[i] = JoinKey(scope, key)\n", "\t\tinner[i] = JoinKey(scope[:0], key)\n"),
		run:     "TestConformance/memory/G30",
	},
	{
		name:    "scope-dropped-from-writes",
		promise: "G30",
		edits:   change("scope.go", "\tinner := JoinKey(scope, key)\n", "\tinner := JoinKey(scope[:0], key)\n"),
		run:     "TestConformance/memory/G30",
	},
	{
		name:    "scope-dropped-from-collected-fetches",
		promise: "G30",
		edits:   change("scope.go", "\tscope, _ := splitScope(inner)\n\treturn scope\n", "\treturn \"\"\n"),
		run:     "TestConformance/memory/G30_flights_and_batches",
	},
	{
		name:    "scope-found-by-a-key-that-spells-it",
		promise: "G30",
		edits:   change("backend.go", "\t\tc.quick = unscoped[T]{}\n", ""),
		run:     "TestConformance/memory/G30_without_a_scope",
	},
	{
		name:    "scope-may-be-missing",
		promise: "G30",
		edits:   change("scope.go", "err == nil && scope == \"\"", "err == nil && false"),
		run:     "TestConformance/memory/G30_without_a_scope",
	},
	{
		name:    "scope-meets-a-key",
		promise: "G30",
		edits: []edit{
			{"scope.go", "\tinner := appendKeyPart(append(appendKeyPart(room[:0], scope), ':'), q.key)\n", "\tinner := append(append(append(room[:0], scope...), ':'), q.key...)\n"},
			{"scope.go", "\tinner := JoinKey(scope, key)\n", "\tinner := scope + \":\" + key\n"},
		},
		run: "TestConformance/memory/G30_scopes_and_keys",
	},
	{
		name:    "scope-is-shown-to-fetches",
		promise: "scopes",
		edits:   change("scope.go", "\t\t\tkeys[i] = c.outer(inner[i])\n", "\t\t\tkeys[i] = inner[i]\n"),
		run:     "TestConformance/memory/G30_no_way",
	},
	{
		name:    "scope-of-a-ref-is-forgotten",
		promise: "scopes",
		edits:   change("invalidate.go", "\t\tr.name, r.bare = inner, false\n", "\t\t_ = inner\n"),
		run:     "TestConformance/memory/G30_removals",
	},
	{
		name:    "scope-of-a-feeds-ref-is-not-asked-for",
		promise: "scopes",
		edits:   change("feed.go", "\t\tif r.bare {\n\t\t\ts.clear(r.cache)\n\t\t\tcontinue\n\t\t}\n", ""),
		run:     "TestConformance/memory/scopes_a_feed",
	},
	{
		name:    "scope-is-no-tag",
		promise: "scopes",
		edits:   change("scope.go", "\treturn []string{scopeTag(c.cfg.Name, c.scopeIn(inner))}\n", "\treturn nil\n"),
		run:     "TestConformance/memory/scopes_ClearScope",
	},
	{
		name:    "scope-or-none-under-one-name",
		promise: "scopes",
		edits:   change("name_claim.go", "\t\tif mine.scoped != other.scoped {\n", "\t\tif false {\n"),
		run:     "TestConformance/rueidis/scopes_a_cache_with",
	},
	{
		name:    "scope-is-not-in-the-fingerprint",
		promise: "scopes",
		edits:   change("backend.go", "\t\tfingerprint = ^fingerprint //", "\t\t_ = fingerprint //"),
		run:     "TestConformance/rueidis/scopes_a_cache_with",
	},
}
