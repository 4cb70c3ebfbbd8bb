package main

import (
	"context"
	"database/sql"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// asService names the variable in whose presence the test binary is the service, as the demo starts it
// for its other processes.
const asService = "USERSERVICE_TEST_IS_THE_SERVICE"

func TestMain(m *testing.M) {
	if os.Getenv(asService) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(redistest.Goroutine))
}

func TestAThousandRequestsForOneColdUserReachTheDatabaseOnce(t *testing.T) {
	var out strings.Builder
	t.Setenv("CACHE", "memory://")
	require.NoError(t, run(t.Context(), []string{"-demo"}, &out), out.String())
	require.Contains(t, out.String(), "1000 answered with 200")
	require.Contains(t, out.String(), "     1 database queries\n")
}

func TestProcessesShareACacheInRedis(t *testing.T) {
	server := redistest.Start(t)
	t.Setenv(asService, "1")
	for _, backend := range []string{cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			var out strings.Builder
			t.Setenv("CACHE", server.URL(backend, "prefix="+backend, "op_timeout=5s"))
			require.NoError(t, run(t.Context(), []string{"-demo", "-requests", "200", "-processes", "3"}, &out), out.String())
			require.Contains(t, out.String(), "     1 database queries\n")
			require.Equal(t, 2, strings.Count(out.String(), "   200 found in the cache\n       0 database queries\n"), out.String())
			require.Contains(t, out.String(), "process 1 finds the new name")
		})
	}
}

func TestProcessesDoNotShareACacheInMemory(t *testing.T) {
	var out strings.Builder
	t.Setenv(asService, "1")
	t.Setenv("CACHE", "memory://")
	require.NoError(t, run(t.Context(), []string{"-demo", "-requests", "100", "-processes", "2"}, &out), out.String())
	require.Equal(t, 2, strings.Count(out.String(), "     1 database queries\n"), out.String())
}

func TestABadCacheIsAnError(t *testing.T) {
	t.Setenv("CACHE", "memory://?max_entires=1")
	require.ErrorIs(t, run(t.Context(), []string{"-demo"}, io.Discard), cacheaside.ErrInvalidConfig)
}

// serveUsers serves a new database over HTTP until the test ends.
func serveUsers(t *testing.T) (url string, source *counted) {
	t.Helper()
	repository, err := users.OpenRepository(t.Context(), filepath.Join(t.TempDir(), "users.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, repository.Close()) })
	source = &counted{Source: repository}
	cfg, err := cacheaside.ParseConfig(defaultCache)
	require.NoError(t, err)
	service, err := users.Open(t.Context(), cfg, source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close()) })
	server := httptest.NewServer(handler(service))
	t.Cleanup(server.Close)
	return server.URL, source
}

// send returns the status and the body of the answer to a request.
func send(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, strings.TrimSpace(string(answer))
}

func TestAnUpdateIsSeenAtOnce(t *testing.T) {
	url, source := serveUsers(t)
	status, _ := send(t, http.MethodGet, url+"/users/7", "")
	require.Equal(t, http.StatusNotFound, status)
	status, _ = send(t, http.MethodGet, url+"/users/7", "")
	require.Equal(t, http.StatusNotFound, status)
	require.EqualValues(t, 1, source.queries.Load(), "that there is no such user is remembered")

	for _, name := range []string{"Grace", "Grace Hopper"} {
		status, _ = send(t, http.MethodPut, url+"/users/7", `{"name":"`+name+`","email":"grace@example.org"}`)
		require.Equal(t, http.StatusOK, status)
		for range 2 {
			status, body := send(t, http.MethodGet, url+"/users/7", "")
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, `{"id":7,"name":"`+name+`","email":"grace@example.org"}`, body)
		}
	}
	require.EqualValues(t, 3, source.queries.Load(), "one for each change")
}

func TestSeveralUsersAreFetchedByOneQuery(t *testing.T) {
	url, source := serveUsers(t)
	for _, id := range []string{"1", "2", "3"} {
		send(t, http.MethodPut, url+"/users/"+id, `{"name":"user `+id+`"}`)
	}
	send(t, http.MethodGet, url+"/users/2", "")
	status, body := send(t, http.MethodGet, url+"/users?ids=3,2,1,99,3", "")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `[{"id":3,"name":"user 3","email":""},{"id":2,"name":"user 2","email":""},{"id":1,"name":"user 1","email":""}]`, body)
	require.EqualValues(t, 1, source.queries.Load())
	require.EqualValues(t, 1, source.batches.Load())
}

func TestBadRequestsAreRefused(t *testing.T) {
	url, _ := serveUsers(t)
	for _, path := range []string{"/users/x", "/users?ids=1,x", "/users?ids=" + strings.Repeat("1,", maxIDs)} {
		status, _ := send(t, http.MethodGet, url+path, "")
		require.Equal(t, http.StatusBadRequest, status, path)
	}
	status, _ := send(t, http.MethodPut, url+"/users/1", `{"name":`)
	require.Equal(t, http.StatusBadRequest, status)
}

func TestARequestThatEndsLeavesTheQueryToTheOthers(t *testing.T) {
	url, source := serveUsers(t)
	send(t, http.MethodPut, url+"/users/1", `{"name":"Ada"}`)
	asked, release := make(chan struct{}), make(chan struct{})
	source.wait = func(context.Context) { close(asked); <-release }
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/users/1", nil)
		if err == nil {
			var response *http.Response
			if response, err = http.DefaultClient.Do(r); err == nil {
				err = response.Body.Close()
			}
		}
		left <- err
	}()
	<-asked
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)
	close(release)
	status, _ := send(t, http.MethodGet, url+"/users/1", "")
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, 1, source.queries.Load(), "the query of the one who left")
}

func TestTheServiceSaysWhenThereIsNoSuchUser(t *testing.T) {
	repository, err := users.OpenRepository(t.Context(), filepath.Join(t.TempDir(), "users.db"))
	require.NoError(t, err)
	defer func() { require.NoError(t, repository.Close()) }()
	service, err := users.Open(t.Context(), cacheaside.Config{}, repository)
	require.NoError(t, err)
	defer func() { require.NoError(t, service.Close()) }()
	_, err = service.GetUserByID(t.Context(), 1)
	require.ErrorIs(t, err, users.ErrNotFound)
	require.ErrorIs(t, err, sql.ErrNoRows)
}

// A user who gets another e-mail is found by it at once, and by the old one no more, though the service names the id only.
func TestAUserIsFoundByEmail(t *testing.T) {
	url, source := serveUsers(t)
	put := func(email string) {
		status, _ := send(t, http.MethodPut, url+"/users/7", `{"name":"Grace","email":"`+email+`"}`)
		require.Equal(t, http.StatusOK, status)
	}
	find := func(email string) int {
		status, _ := send(t, http.MethodGet, url+"/users?email="+email, "")
		return status
	}
	require.Equal(t, http.StatusNotFound, find("grace@navy.example"))
	put("grace@navy.example")
	for range 3 {
		require.Equal(t, http.StatusOK, find("grace@navy.example"))
		status, _ := send(t, http.MethodGet, url+"/users/7", "")
		require.Equal(t, http.StatusOK, status)
	}
	require.EqualValues(t, 2, source.queries.Load(), "one for each that was not known")
	put("grace@yale.example")
	require.Equal(t, http.StatusOK, find("grace@yale.example"))
	require.Equal(t, http.StatusNotFound, find("grace@navy.example"))
}
