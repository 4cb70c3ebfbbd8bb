package prometheus_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cacheaside/cacheaside"
	cacheprom "github.com/cacheaside/cacheaside/prometheus"
)

func Example() {
	metrics := cacheprom.New(cacheprom.Options{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)

	users, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "users"}, cacheaside.WithObserver(metrics))
	if err != nil {
		panic(err)
	}
	defer users.Close()
	metrics.Add(users)

	for range 3 {
		if _, err := users.GetWithFetch(context.Background(), "42", time.Minute, func(context.Context, string) (string, error) {
			return "Ada", nil
		}); err != nil {
			panic(err)
		}
	}

	reply := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(reply, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(reply.Body.String()) {
		if strings.HasPrefix(line, "cacheaside_lookups_total") {
			fmt.Print(line)
		}
	}
	// Output:
	// cacheaside_lookups_total{cache="users",result="hit"} 2
	// cacheaside_lookups_total{cache="users",result="joined"} 0
	// cacheaside_lookups_total{cache="users",result="miss"} 1
}
