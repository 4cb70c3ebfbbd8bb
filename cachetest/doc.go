// Package cachetest helps to test code around a [cacheaside.Cache].
//
// [Run] is a conformance suite for a Cache of your own: a wrapper that adds metrics, tenancy or a second
// layer keeps the promises of what it wraps, or Run says which one it breaks.
//
// [Survive] shows whether a value comes back from Redis as it was, without a Redis.
//
// [Fake] is a Cache in memory that can be made to fail, to be slow and to forget, for the tests of the code
// that uses a Cache.
//
// [Keys] tries a codec of yours for the keys of a [cacheaside.Keyed].
//
// It is a module of its own, so that programs which only use the library do not download what tests need.
package cachetest
