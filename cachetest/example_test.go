package cachetest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/cachetest"
)

// greeter is the service under test. It greets strangers rather than to keep anybody waiting.
type greeter struct {
	names   cacheaside.Cache[string]
	queries int // that the database has answered
}

func (g *greeter) greet(ctx context.Context, id string) string {
	name, err := g.names.GetWithFetch(ctx, id, time.Minute, func(context.Context, string) (string, error) {
		g.queries++
		return "Ada", nil
	})
	if err != nil {
		name = "stranger"
	}
	return "Hello, " + name
}

func ExampleFake() {
	ctx := context.Background()
	fake, err := cachetest.NewFake[string](cacheaside.Config{})
	if err != nil {
		panic(err)
	}
	defer fake.Close()
	service := &greeter{names: fake}

	fake.Fail(errors.New("connection refused"))
	fmt.Println("cache down:", service.greet(ctx, "42"), service.greet(ctx, "42"), service.queries)

	fake.Recover()
	fmt.Println("cache up:", service.greet(ctx, "42"), service.greet(ctx, "42"), service.queries)

	if err := fake.Forget(ctx); err != nil {
		panic(err)
	}
	fmt.Println("evicted:", service.greet(ctx, "42"), service.queries)

	fake.Slow(time.Hour)
	hurry, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	fmt.Println("cache slow:", service.greet(hurry, "42"), service.queries)

	fmt.Println(len(fake.Calls()), "calls, the first is", fake.Calls()[0])
	// Output:
	// cache down: Hello, Ada Hello, Ada 2
	// cache up: Hello, Ada Hello, Ada 3
	// evicted: Hello, Ada 4
	// cache slow: Hello, stranger 4
	// 6 calls, the first is {GetWithFetch 42}
}
