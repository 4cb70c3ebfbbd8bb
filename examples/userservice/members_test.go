package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// serveMembers is serveUsers with two full pages of members in organisation 7, and none in organisation 8.
func serveMembers(t *testing.T) (url string, source *counted) {
	t.Helper()
	url, source = serveUsers(t)
	for i := range 2 * users.PageSize {
		send(t, http.MethodPut, fmt.Sprintf("%s/users/%d", url, i+1), fmt.Sprintf(`{"name":"user %d"}`, i+1))
		status, _ := send(t, http.MethodPut, fmt.Sprintf("%s/organisations/7/members/%d", url, i+1), `{"role":"reader"}`)
		require.Equal(t, http.StatusOK, status)
	}
	return url, source
}

// get reads the answer to a request, and returns how many queries for pages and roles it took.
func (c *counted) get(t *testing.T, url string, into any) (queries int64) {
	t.Helper()
	before := c.lists.Load()
	status, body := send(t, http.MethodGet, url, "")
	require.Equal(t, http.StatusOK, status, body)
	require.NoError(t, json.Unmarshal([]byte(body), into), body)
	return c.lists.Load() - before
}

func TestARoleIsOnEveryPageAtOnce(t *testing.T) {
	url, source := serveMembers(t)
	var first, second, other []users.Member
	var roles []users.Role
	look := func() (queries int64) {
		t.Helper()
		return source.get(t, url+"/organisations/7/members", &first) + source.get(t, url+"/organisations/7/members?page=2", &second) +
			source.get(t, url+"/organisations/8/members", &other) + source.get(t, url+"/users/1/roles", &roles)
	}
	require.EqualValues(t, 4, look())
	require.Zero(t, look(), "all is cached")
	require.Len(t, first, users.PageSize)
	require.Len(t, second, users.PageSize)
	require.Empty(t, other)

	status, _ := send(t, http.MethodPut, url+"/organisations/7/members/1", `{"role":"admin"}`)
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, 3, look(), "both pages and the user's roles, and not the other organisation")
	require.Equal(t, "admin", first[0].Role)
	require.Equal(t, []users.Role{{Organisation: 7, Role: "admin"}}, roles)

	status, _ = send(t, http.MethodPost, url+"/organisations/7/members/1/move", `{"to":8}`)
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, 4, look())
	require.EqualValues(t, 2, first[0].User.ID)
	require.Len(t, second, users.PageSize-1, "the next members have moved up")
	require.EqualValues(t, 1, other[0].User.ID)
	require.Equal(t, []users.Role{{Organisation: 8, Role: "admin"}}, roles)

	status, _ = send(t, http.MethodPut, url+"/users/2", `{"name":"Grace"}`)
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, 1, look(), "the page that shows the user")
	require.Equal(t, "Grace", first[0].User.Name)
	require.Zero(t, look())
}

func TestBadMembersAreRefused(t *testing.T) {
	url, _ := serveUsers(t)
	for _, path := range []string{"/organisations/x/members", "/organisations/7/members?page=x", "/organisations/7/members?page=0", "/users/x/roles"} {
		status, _ := send(t, http.MethodGet, url+path, "")
		require.Equal(t, http.StatusBadRequest, status, path)
	}
	for path, want := range map[string]int{"x/members/1": http.StatusBadRequest, "7/members/x": http.StatusBadRequest, "7/members/1": http.StatusNotFound} {
		status, _ := send(t, http.MethodPut, url+"/organisations/"+path, `{"role":"admin"}`)
		require.Equal(t, want, status, path)
	}
	status, _ := send(t, http.MethodPost, url+"/organisations/7/members/1/move", `{"to":8}`)
	require.Equal(t, http.StatusNotFound, status, "no member to move")
	status, _ = send(t, http.MethodPost, url+"/organisations/7/members/1/move", `{`)
	require.Equal(t, http.StatusBadRequest, status)
}

func TestARoleIsSeenByOtherServices(t *testing.T) {
	server := redistest.Start(t)
	for _, backend := range []string{cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			repository, err := users.OpenRepository(t.Context(), filepath.Join(t.TempDir(), "users.db"))
			require.NoError(t, err)
			defer func() { require.NoError(t, repository.Close()) }()
			require.NoError(t, repository.Save(t.Context(), ada))
			open := func() *users.Service {
				cfg, err := cacheaside.ParseConfig(server.URL(backend, "prefix="+backend, "op_timeout=5s"))
				require.NoError(t, err)
				service, err := users.Open(t.Context(), cfg, repository)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, service.Close()) })
				return service
			}
			one, two := open(), open()
			page := users.Page{Organisation: 7, Number: 1}
			for _, role := range []string{"reader", "admin"} {
				require.NoError(t, one.SetRole(t.Context(), 7, ada.ID, role))
				for _, service := range []*users.Service{one, two} {
					poll(t.Context(), func() bool {
						members, err := service.GetMembers(t.Context(), page)
						return err == nil && len(members) == 1 && members[0].Role == role
					})
					members, err := service.GetMembers(t.Context(), page)
					require.NoError(t, err)
					require.Equal(t, []users.Member{{User: ada, Role: role}}, members)
				}
			}
		})
	}
}
