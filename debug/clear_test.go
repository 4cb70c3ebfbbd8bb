package debug

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// post sends the form as a browser does that trusts the connection, and then says which site the form is of.
func post(h http.Handler, cache, site string) *httptest.ResponseRecorder {
	return postWith(h, cache, "Sec-Fetch-Site", site)
}

func postWith(h http.Handler, cache, header, value string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/debug/cacheaside", strings.NewReader(url.Values{"clear": {cache}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set(header, value)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPageOnlyShowsUnlessTold(t *testing.T) {
	f := &fake{name: "users"}
	h := New(Options{})
	h.Add(f)
	require.Equal(t, http.StatusMethodNotAllowed, post(h, "users", "same-origin").Code)
	require.False(t, says(get(h, "/", ""), "<form"))
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/", nil))
		require.Equal(t, http.StatusMethodNotAllowed, w.Code)
		require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	}
	require.Zero(t, f.cleared)
}

func TestCacheIsClearedByAFormOfThePageAndNoOther(t *testing.T) {
	f := &fake{name: "users"}
	h := New(Options{AllowClear: true})
	h.Add(f)
	require.True(t, says(get(h, "/", ""), `<form method="post">`))
	require.Contains(t, get(h, "/", "").Header().Get("Content-Security-Policy"), "form-action 'self'")

	require.Equal(t, http.StatusForbidden, post(h, "users", "cross-site").Code)
	require.Zero(t, f.cleared)
	require.Equal(t, http.StatusNotFound, post(h, "others", "same-origin").Code)
	require.Zero(t, f.cleared)
	w := post(h, "users", "same-origin")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "?", w.Header().Get("Location"), "back to where the form was")
	require.Equal(t, 1, f.cleared)

	f.err = errors.New("a secret")
	w = post(h, "users", "same-origin")
	require.Equal(t, http.StatusBadGateway, w.Code)
	require.NotContains(t, w.Body.String(), "secret")
}

func TestPageThatClearsSaysThatItTakesForms(t *testing.T) {
	w := httptest.NewRecorder()
	New(Options{AllowClear: true}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "GET, HEAD, POST", w.Header().Get("Allow"))
	require.False(t, says(w, "only shows"))
}

// Over plain HTTP a browser trusts nothing but its own machine, and leaves out Sec-Fetch-Site for all others:
// then the origin alone tells whose form it is.
func TestFormIsToldByItsOriginWhereTheBrowserSaysNoMore(t *testing.T) {
	f := &fake{name: "users"}
	h := New(Options{AllowClear: true})
	h.Add(f)
	require.Equal(t, "same-origin", get(h, "/", "").Header().Get("Referrer-Policy"))
	for _, origin := range []string{"null", "http://elsewhere.example"} {
		require.Equal(t, http.StatusForbidden, postWith(h, "users", "Origin", origin).Code, origin)
	}
	require.Zero(t, f.cleared)
	require.Equal(t, http.StatusSeeOther, postWith(h, "users", "Origin", "http://example.com").Code) // the Host of a recorded request
	require.Equal(t, 1, f.cleared)
}

// listenToOthers listens where a browser does not take it for its own machine.
func listenToOthers(t *testing.T) net.Listener {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			l, err := net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0"))
			require.NoError(t, err)
			return l
		}
	}
	t.Skip("SKIPPED: this machine has no address but its loopback, over which browsers trust plain HTTP")
	return nil
}

func TestButtonClearsOverPlainHTTP(t *testing.T) {
	requireBrowser(t)
	f := &fake{name: "users"}
	h := New(Options{AllowClear: true})
	h.Add(f)
	server := &httptest.Server{Listener: listenToOthers(t), Config: &http.Server{Handler: h}}
	server.Start()
	defer server.Close()
	b := openBrowser(t)
	b.open(server.URL+"/debug/cacheaside", "light", 1280)
	var trusted bool
	b.evaluate(`window.isSecureContext`, &trusted)
	require.False(t, trusted)
	checkClear(b, "c0")
	require.Empty(t, b.complaints())
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Equal(t, 1, f.cleared)
}
