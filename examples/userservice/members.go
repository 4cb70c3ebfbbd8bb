package main

import (
	"fmt"
	"net/http"

	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

// handleMembers adds
//
//	GET  /organisations/{org}/members?page=2       a page of its members
//	PUT  /organisations/{org}/members/{user}       {"role": "admin"}: a new member, or another role
//	POST /organisations/{org}/members/{user}/move  {"to": 8}: the member goes to another organisation
func handleMembers(mux *http.ServeMux, s *users.Service) {
	mux.HandleFunc("GET /users/{id}/roles", func(w http.ResponseWriter, r *http.Request) {
		id, err := parseID(r.PathValue("id"))
		if err != nil {
			fail(w, err)
			return
		}
		roles, err := s.GetRoles(r.Context(), id)
		reply(w, roles, err)
	})
	mux.HandleFunc("GET /organisations/{org}/members", func(w http.ResponseWriter, r *http.Request) {
		page, err := parsePage(r)
		if err != nil {
			fail(w, err)
			return
		}
		members, err := s.GetMembers(r.Context(), page)
		reply(w, members, err)
	})
	mux.HandleFunc("PUT /organisations/{org}/members/{user}", func(w http.ResponseWriter, r *http.Request) {
		var role users.Role
		org, user, err := readMember(w, r, &role)
		if err == nil {
			role.Organisation = org
			err = s.SetRole(r.Context(), org, user, role.Role)
		}
		reply(w, role, err)
	})
	mux.HandleFunc("POST /organisations/{org}/members/{user}/move", func(w http.ResponseWriter, r *http.Request) {
		var move struct {
			To int64 `json:"to"`
		}
		org, user, err := readMember(w, r, &move)
		if err == nil {
			err = s.Move(r.Context(), user, org, move.To)
		}
		reply(w, move, err)
	})
}

// readMember reads the path of a member, and the body of the request.
func readMember(w http.ResponseWriter, r *http.Request, into any) (org, user int64, err error) {
	if org, err = parseID(r.PathValue("org")); err != nil {
		return 0, 0, err
	}
	if user, err = parseID(r.PathValue("user")); err != nil {
		return 0, 0, err
	}
	return org, user, readBody(w, r, into)
}

func parsePage(r *http.Request) (p users.Page, err error) {
	p.Number = 1
	if p.Organisation, err = parseID(r.PathValue("org")); err != nil {
		return p, err
	}
	if s := r.URL.Query().Get("page"); s != "" {
		p.Number, err = parseID(s)
	}
	if err == nil && p.Number < 1 {
		err = fmt.Errorf("%w: the first page is 1", errBadRequest)
	}
	return p, err
}
