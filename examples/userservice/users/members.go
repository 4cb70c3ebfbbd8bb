package users

import (
	"context"
	"fmt"
	"strconv"

	"github.com/cacheaside/cacheaside"
)

// A page is made of many rows. Its organisation's tag reaches it when a member comes, goes or gets another role, since
// that may change every page. The tags of the users whom it shows reach it when one of them gets another name.

func organisationTag(id int64) string { return "organisation:" + strconv.FormatInt(id, 10) }
func userTag(id int64) string         { return "user:" + strconv.FormatInt(id, 10) }

func (s *Service) fetchPage(ctx context.Context, p Page) ([]Member, error) {
	cacheaside.Tag(ctx, organisationTag(p.Organisation))
	return s.source.Members(ctx, p)
}

func tagsOfPage(_ string, members []Member) (tags []string) {
	for _, m := range members {
		tags = append(tags, userTag(m.User.ID))
	}
	return tags
}

// GetMembers returns the members on a page, which may have none.
func (s *Service) GetMembers(ctx context.Context, p Page) ([]Member, error) {
	return s.pages.Get(ctx, p)
}

// GetRoles returns the roles of a user in all organisations.
func (s *Service) GetRoles(ctx context.Context, user int64) ([]Role, error) {
	return s.roles.GetWithFetch(ctx, user, ttl, s.source.Roles)
}

// SetRole makes a user a member of an organisation, or changes the member's role. After it has returned, every page
// and [Service.GetRoles] show that, in each process that shares the cache.
func (s *Service) SetRole(ctx context.Context, organisation, user int64, role string) error {
	refs := append(s.roles.Refs(user), cacheaside.Tags(organisationTag(organisation))...)
	return s.backend.Mutate(ctx, refs, func(ctx context.Context) error {
		return s.source.SetRole(ctx, organisation, user, role)
	})
}

// Move moves a member with the role to another organisation. The pages of both have changed then.
func (s *Service) Move(ctx context.Context, user, from, to int64) error {
	refs := append(s.roles.Refs(user), cacheaside.Tags(organisationTag(from), organisationTag(to))...)
	return s.backend.Mutate(ctx, refs, func(ctx context.Context) error {
		return s.source.Move(ctx, user, from, to)
	})
}

// pageKeys writes the key of a page as organisation:number.
type pageKeys struct{}

func (pageKeys) Append(b []byte, p Page) []byte {
	return fmt.Appendf(b, "%d:%d", p.Organisation, p.Number)
}

func (pageKeys) Parse(s string) (p Page, err error) {
	_, err = fmt.Sscanf(s, "%d:%d", &p.Organisation, &p.Number)
	return p, err
}
