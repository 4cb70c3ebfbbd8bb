package main

import "time"

// valueMutants break what is promised of values, ttls, keys and errors: G12 to G14, G18, G20 and G21.
var valueMutants = []mutant{
	{
		name:    "error-is-cached",
		promise: "G12",
		edits:   change("fetch.go", "\t\tc.flights.fail(f, err)\n\t\treturn", "\t\tc.keep(f, c.entry(value, ttl, now, took), took)\n\t\tc.flights.fail(f, err)\n\t\treturn"),
		run:     "TestConformance/memory/G12_",
	},
	{
		name:    "nil-is-a-miss",
		promise: "G12",
		edits:   change("cache.go", "case e == nil || now >= e.deadline:", "case e == nil || now >= e.deadline || any(e.value) == nil:"),
		run:     "TestConformance/rueidis/G12_nil",
	},
	{
		name:    "nil-panics",
		promise: "G12",
		edits:   change("fetch.go", "\tvalue, err = f.fetch(ctx, f.key)\n", "\tvalue, err = f.fetch(ctx, f.key)\n\tvalue = any(value).(T)\n"),
		run:     "TestConformance/memory/G12_",
	},
	{
		name:    "not-found-is-remembered-unasked",
		promise: "G12",
		edits:   change("fetch.go", "\tttl := c.cfg.NegativeTTL\n", "\tttl := max(c.cfg.NegativeTTL, time.Minute)\n"),
		run:     "TestConformance/memory/G12_",
	},
	{
		name:    "not-found-leaves-the-stale-value",
		promise: "G12",
		edits:   change("fetch.go", "\t\tc.drop(f, true)\n", "\t\tc.drop(f, false)\n"),
		run:     "TestConformance/memory/G12_NotFound_removes",
	},
	{
		name:    "ttl-is-truncated",
		promise: "G13",
		edits:   change("fetch.go", "ttl += time.Millisecond - over", "ttl -= over"),
		run:     "TestConformance/memory/G13_|TestMillisecondsLeftAreRoundedUp",
	},
	{
		name:    "no-least-ttl",
		promise: "G13",
		edits: change("fetch.go", "\tif over := ttl % time.Millisecond; over > 0 && ttl < NoExpiry-time.Millisecond {\n\t\tttl += time.Millisecond - over\n\t}\n\treturn max(ttl, time.Millisecond)",
			"\treturn ttl"),
		run: "TestConformance/memory/G13_",
	},
	{
		name:    "ttl-overflows",
		promise: "G13",
		edits:   change("clock.go", "if int64(ttl) >= never-now {", "if false {"),
		run:     "TestConformance/memory/G13_|TestDeadlinesDoNotOverflow",
	},
	{
		name:    "ttl-is-truncated-in-redis",
		promise: "G13",
		edits:   change("rueidis.go", "math.Ceil(float64(left)/float64(time.Millisecond))", "math.Floor(float64(left)/float64(time.Millisecond))"),
		run:     "TestMillisecondsLeftAreRoundedUp",
	},
	{
		name:    "ttl-limits-the-fetch",
		promise: "G13",
		edits: change("fetch.go", "\tvalue, err = f.fetch(ctx, f.key)\n",
			"\tctx, cancel := context.WithTimeout(ctx, max(f.ttl, time.Millisecond))\n\tdefer cancel()\n\tvalue, err = f.fetch(ctx, f.key)\n"),
		run: "TestConformance/memory/G13_",
	},
	{
		name:    "no-ttl-is-stored",
		promise: "G13",
		edits:   change("fetch.go", "store := ttl > 0 && !f.context.skipStore", "store := !f.context.skipStore"),
		run:     "TestConformance/memory/G13_",
	},
	{
		name:    "set-takes-no-ttl",
		promise: "G13",
		edits:   change("cache.go", "\tif ttl <= 0 {\n\t\treturn invalidTTL(ttl)\n\t}\n\tfenced", "\tfenced"),
		run:     "TestConformance/memory/G13_",
	},
	{
		name:    "header-of-another-key-is-taken",
		promise: "G21",
		edits:   change("stored.go", "case binary.BigEndian.Uint32(data[28:]) != seal(key, len(data)):", "case false:"),
		run:     "TestBytesOfAnotherOriginAreRefused",
	},
	{
		name:    "another-type-is-taken",
		promise: "G14",
		edits:   change("stored.go", "case binary.BigEndian.Uint32(data[4:]) != f.fingerprint:", "case false:"),
		run:     "TestBytesOfAnotherOriginAreRefused",
	},
	{
		name:    "lease-is-a-value",
		promise: "G14",
		edits:   change("stored.go", "\tif isLease(data) { // before its size counts: a small limit must not make it unreadable\n\t\treturn nil, errLease\n\t}\n", "\tif isLease(data) {\n\t\treturn f.decodeBare(data)\n\t}\n"),
		run:     "TestLeasesAreNoValues|TestConformance/rueidis/G14_lease",
	},
	{
		name:    "what-begins-as-a-lease-is-one",
		promise: "G14",
		edits:   change("stored.go", "if len(data) != tokenBytes || data[0]", "if len(data) >= 2 && data[0] == magic && data[1] == version|kindLease {\n\t\treturn true\n\t}\n\tif len(data) != tokenBytes || data[0]"),
		run:     "TestLeasesAreNoValues|TestConformance/rueidis-aside/G14_what_looks",
		within:  20 * time.Second, // it is waited for
	},
	{
		name:    "lease-is-unreadable",
		promise: "G14",
		edits:   change("rueidis.go", "\tif err == errLease { // the", "\tif false { // the"),
		run:     "TestConformance/rueidis/G14_lease",
	},
	{
		name:    "unreadable-stays",
		promise: "G14",
		edits:   change("lookup.go", "q.failed = err != nil && errors.Is(err, ErrUnavailable)", "q.failed = err != nil"),
		run:     "TestConformance/rueidis/G14_bytes",
	},
	{
		name:    "error-quotes-the-value",
		promise: "G20",
		edits:   change("stored.go", "fmt.Sprintf(\"%v: %s (%T)\", ErrInvalidValue, what, err)", "fmt.Sprintf(\"%v: %s (%v)\", ErrInvalidValue, what, err)"),
		run:     "TestConformance/rueidis/G20_an_error_of_the_codec",
	},
	{
		name:    "large-values-are-sent",
		promise: "G14",
		edits:   change("stored.go", "if n := len(b) - headerBytes; n > f.maxBytes {", "if n := 0; n > f.maxBytes {"),
		run:     "TestEncodeRefusesWhatCannotBeKept|TestConformance/rueidis/G14_a_value_over",
	},
	{
		name:    "large-values-are-decoded",
		promise: "G14",
		edits:   change("stored.go", "case n > f.maxBytes:", "case false:"),
		run:     "TestConformance/rueidis/G14_a_value_of_100_MB|TestBytesOfAnotherOriginAreRefused",
	},
	{
		name:    "no-prefix",
		promise: "G18",
		edits:   change("backend.go", `name: c.cfg.Prefix + ":" + c.cfg.Name + ":"`, `name: c.cfg.Name + ":"`),
		run:     "TestConformance/rueidis/G18_",
	},
	{
		name:    "no-name",
		promise: "G18",
		edits:   change("backend.go", `name: c.cfg.Prefix + ":" + c.cfg.Name + ":"`, `name: c.cfg.Prefix + ":"`),
		run:     "TestConformance/rueidis/G18_",
	},
	{
		name:    "colon-in-a-name",
		promise: "G18",
		edits:   change("config.go", `if strings.Contains(name, ":") || `, "if "),
		run:     "TestBadConfigsAreNamed",
	},
	{
		name:    "long-keys-are-taken",
		promise: "G18",
		edits:   change("cache.go", "if len(key) > MaxKeyBytes {", "if false {"),
		run:     "TestConformance/memory/G18_",
	},
	{
		name:    "fetch-sees-another-key",
		promise: "G18",
		edits:   change("fetch.go", "value, err = f.fetch(ctx, f.key)", `value, err = f.fetch(ctx, "cache:"+f.key)`),
		run:     "TestConformance/memory/G18_",
	},
	{
		name:    "password-is-printed",
		promise: "G20",
		edits:   change("config_text.go", "c.Redis.Password = redacted", ""),
		run:     "TestPrintedConfigsHideThePassword",
	},
	{
		name:    "password-in-a-url-is-printed",
		promise: "G20",
		edits:   change("config_text.go", `return scheme + user + ":" + redacted + rest[at:]`, "_ = user\n\t\t\treturn s"),
		run:     "TestPrintedConfigsHideThePassword|TestBadRedisURLsAreNamedWithoutThePassword",
	},
	{
		name:    "key-in-an-error",
		promise: "G20",
		edits:   change("cache.go", `"%w: %d bytes long, allowed: up to %d", ErrInvalidKey, len(key), MaxKeyBytes`, `"%w: %s", ErrInvalidKey, key`),
		run:     "TestConformance/memory/G18_a_key_of_over",
	},
	{
		name:    "panic-prints-its-value",
		promise: "G20",
		edits:   change("errors.go", `fmt.Sprintf("cacheaside: fetch panicked with a value of type %T", e.Value)`, `fmt.Sprintf("cacheaside: fetch panicked with %v", e.Value)`),
		run:     "TestPanicErrorPrintsNoValue|TestConformance/memory/G4_a_panic",
	},
	{
		name:    "cause-is-lost",
		promise: "G20",
		edits:   change("errors.go", "return []error{ErrNotFound, e.cause}", "return []error{ErrNotFound}"),
		run:     "TestConformance/memory/G20_",
	},
	{
		name:    "replies-are-mixed-up",
		promise: "G21",
		edits:   change("aside_read.go", "a.endRead(keys[mine[i]], reads[mine[i]], reply)", "a.endRead(keys[mine[i]], reads[mine[len(mine)-1-i]], reply)"),
		run:     "TestConformance/rueidis-aside/batch_what_is_missing|TestConformance/rueidis-aside/batch_SetMany",
	},
}
