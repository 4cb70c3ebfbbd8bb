// Command quickstart looks a user up three times, and prints what happened.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/cacheaside/cacheaside"
)

type User struct {
	ID   string
	Name string
}

// fetchUser stands for the database. It is given the key, so that it need not be a closure.
func fetchUser(ctx context.Context, id string) (User, error) {
	fmt.Println("asking the database for user", id)
	return User{ID: id, Name: "Ada"}, nil
}

func main() {
	ctx := context.Background()
	// For Redis, change this line: "rueidis://localhost:6379?name=users" or "rueidis-aside://…".
	cfg, err := cacheaside.ParseConfig("memory://?name=users&max_entries=10000")
	if err != nil {
		log.Fatal(err)
	}
	users, err := cacheaside.Open[User](ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close()

	for range 3 {
		user, err := users.GetWithFetch(ctx, "42", time.Minute, fetchUser)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("user 42 is", user.Name)
	}
	fmt.Println("hits:", users.Stats().Hits, "fetches:", users.Stats().Fetches)
}
