package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

// maxBody is far more than a user takes.
const maxBody = 64 << 10

// handler serves
//
//	GET /users/{id}       one user
//	GET /users?ids=1,2,3  those of them that there are
//	GET /users?email=e    the user with this e-mail
//	PUT /users/{id}       create or replace a user
//	GET /users/{id}/roles the user's roles, in all organisations
//	GET /healthz          whether the cache's backend answers
//
// and the members of organisations; see members.go.
func handler(s *users.Service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := parseID(r.PathValue("id"))
		if err != nil {
			fail(w, err)
			return
		}
		u, err := s.GetUserByID(r.Context(), id)
		reply(w, u, err)
	})
	mux.HandleFunc("GET /users", func(w http.ResponseWriter, r *http.Request) {
		if email := r.URL.Query().Get("email"); email != "" {
			u, err := s.GetUserByEmail(r.Context(), email)
			reply(w, u, err)
			return
		}
		ids, err := parseIDs(r.URL.Query().Get("ids"))
		if err != nil {
			fail(w, err)
			return
		}
		found, err := s.GetUsersByID(r.Context(), ids)
		reply(w, found, err)
	})
	mux.HandleFunc("PUT /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		u, err := readUser(w, r)
		if err == nil {
			err = s.SaveUser(r.Context(), u)
		}
		reply(w, u, err)
	})
	handleMembers(mux, s)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.Health(r.Context()); err != nil {
			http.Error(w, "the cache does not answer; users come from the database", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// errBadRequest is the error of a request that cannot be understood.
var errBadRequest = errors.New("bad request")

func parseID(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: an id is a number", errBadRequest)
	}
	return id, nil
}

// maxIDs is how many users one request may ask for.
const maxIDs = 1000

func parseIDs(s string) ([]int64, error) {
	texts := strings.Split(s, ",")
	if len(texts) > maxIDs {
		return nil, fmt.Errorf("%w: more than %d ids", errBadRequest, maxIDs)
	}
	ids := make([]int64, len(texts))
	for i, text := range texts {
		id, err := parseID(text)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

func readUser(w http.ResponseWriter, r *http.Request) (u users.User, err error) {
	id, err := parseID(r.PathValue("id"))
	if err == nil {
		err = readBody(w, r, &u)
	}
	u.ID = id
	return u, err
}

func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into); err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return nil
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone, then
}

func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errBadRequest):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, users.ErrNotFound), errors.Is(err, sql.ErrNoRows):
		http.Error(w, "no such user", http.StatusNotFound)
	case errors.Is(err, context.DeadlineExceeded):
		http.Error(w, "the database takes too long", http.StatusGatewayTimeout)
	default:
		http.Error(w, "internal error", http.StatusInternalServerError)
	}
}
