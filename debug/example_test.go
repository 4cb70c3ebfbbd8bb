package debug_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/debug"
)

func Example() {
	page := debug.New(debug.Options{ShowKey: debug.HashedKeys([]byte("a secret of the operators"))})
	users, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "users"}, cacheaside.WithObserver(page))
	if err != nil {
		panic(err)
	}
	defer users.Close()
	page.Add(users)

	internal := http.NewServeMux() // of a listener that only operators reach
	internal.Handle("/debug/cacheaside", page)

	for range 3 {
		_, err = users.GetWithFetch(context.Background(), "42", time.Minute, func(context.Context, string) (string, error) {
			return "Ada", nil
		})
	}
	reply := httptest.NewRecorder()
	internal.ServeHTTP(reply, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/debug/cacheaside", nil))
	fmt.Println(err, reply.Code, reply.Header().Get("Content-Type"))
	// Output: <nil> 200 text/html; charset=utf-8
}
