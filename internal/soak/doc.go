// Package soak runs every backend under load for minutes, while a source misbehaves, callers give up, and
// Redis and the network fail at random, and gives a verdict.
//
//	go test -count=1 -timeout 1h -v -run '^TestSoak$' ./internal/soak -soak.for=10m
//
// It looks for what shows only after a while or by coincidence: a value that is older than it may be or
// belongs to another key, a process that does not read its own writes, a caller who is kept waiting, an
// error that nobody promised, a cache that outgrows its bound, a goroutine that stays, a backend that does
// not heal. Without the flag it takes a few seconds, so that it is always known to run.
package soak
