package otel_test

import (
	"context"
	"fmt"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/cacheaside/cacheaside"
	cacheotel "github.com/cacheaside/cacheaside/otel"
)

func Example() {
	spans := tracetest.NewSpanRecorder() // in the place of an exporter
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))

	telemetry, err := cacheotel.New(cacheotel.Options{TracerProvider: traces}) // metrics go to the global provider
	if err != nil {
		panic(err)
	}
	users, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "users"}, cacheaside.WithObserver(telemetry))
	if err != nil {
		panic(err)
	}
	defer users.Close()
	telemetry.Add(users)

	ctx, request := traces.Tracer("service").Start(context.Background(), "GET /users/42")
	for range 3 {
		if _, err := users.GetWithFetch(ctx, "42", time.Minute, func(context.Context, string) (string, error) {
			return "Ada", nil
		}); err != nil {
			panic(err)
		}
	}
	request.End()

	for _, span := range spans.Ended() {
		fmt.Println(span.Name())
	}
	// Output:
	// fetch users
	// GET /users/42
}
