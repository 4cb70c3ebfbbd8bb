module github.com/cacheaside/cacheaside/cachetest

go 1.25.0

require (
	github.com/cacheaside/cacheaside v0.1.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/redis/rueidis v1.0.79 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace github.com/cacheaside/cacheaside => ../
