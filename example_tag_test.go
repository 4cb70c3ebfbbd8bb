package cacheaside_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cacheaside/cacheaside"
)

// A page of members carries the tag of its organisation. A write names the tag, and need not know the pages.
func ExampleTag() {
	pages, err := cacheaside.NewMemory[[]string](cacheaside.Config{Name: "members"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pages.Close()
	ctx := context.Background()
	members := []string{"Ada"} // in the database
	fetch := func(ctx context.Context, page string) ([]string, error) {
		org, _, _ := strings.Cut(page, "/")
		cacheaside.Tag(ctx, "org:"+org)
		return members, nil
	}

	fmt.Println(pages.GetWithFetch(ctx, "7/1", time.Hour, fetch))
	members = []string{"Ada", "Grace"} // INSERT INTO members …
	fmt.Println(pages.GetWithFetch(ctx, "7/1", time.Hour, fetch))
	fmt.Println(pages.InvalidateTags(ctx, "org:7"))
	fmt.Println(pages.GetWithFetch(ctx, "7/1", time.Hour, fetch))
	// Output:
	// [Ada] <nil>
	// [Ada] <nil>
	// <nil>
	// [Ada Grace] <nil>
}

// One call removes a key of one cache, and the values of another that carry a tag.
func ExampleBackend_Mutate() {
	ctx := context.Background()
	backend, err := cacheaside.Connect(ctx, cacheaside.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer backend.Close()
	users, err := cacheaside.New[user](backend, "users")
	if err != nil {
		fmt.Println(err)
		return
	}
	pages, err := cacheaside.New[[]user](backend, "members", cacheaside.WithTags(func(_ string, page []user) (tags []string) {
		for _, u := range page {
			tags = append(tags, "user:"+u.ID)
		}
		return tags
	}))
	if err != nil {
		fmt.Println(err)
		return
	}

	row := user{ID: "42", Name: "Ada"} // in the database
	show := func() {
		u, err := users.GetWithFetch(ctx, "42", time.Hour, func(context.Context, string) (user, error) { return row, nil })
		fmt.Println(u.Name, err)
		page, err := pages.GetWithFetch(ctx, "7/1", time.Hour, func(context.Context, string) ([]user, error) { return []user{row}, nil })
		fmt.Println(page, err)
	}
	show()
	refs := append(users.Refs("42"), cacheaside.Tags("user:42")...)
	err = backend.Mutate(ctx, refs, func(context.Context) error {
		row.Name = "Ada King" // UPDATE users …
		return nil
	})
	fmt.Println(err)
	show()
	// Output:
	// Ada <nil>
	// [{42 Ada}] <nil>
	// <nil>
	// Ada King <nil>
	// [{42 Ada King}] <nil>
}
