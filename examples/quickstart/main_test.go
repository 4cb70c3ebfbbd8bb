package main

func Example() {
	main()
	// Output:
	// asking the database for user 42
	// user 42 is Ada
	// user 42 is Ada
	// user 42 is Ada
	// hits: 2 fetches: 1
}
