# Each directory with a go.mod is a module of its own. They are tested as their users see them, without a
# workspace.
export GOWORK := off

GO      ?= go
MODULES := $(patsubst %/,%,$(dir $(shell find . -name go.mod -not -path './bin/*' | sort)))

# Tests run twice as long under the race detector, and some start servers and processes. Those that may run
# beside others mostly wait, for a broken server above all, so more of them run at a time than there are cores.
# One package is tested at a time: a compiler beside them makes servers late.
TEST_TIMEOUT  := 15m
TEST_PARALLEL := 4

# What a target is given: how long it takes (fuzz, soak, coherence), and arguments (mutate, compare).
FOR  ?=
ARGS ?=

LINT_VERSION := v2.12.2
LINT         := $(CURDIR)/bin/golangci-lint-$(LINT_VERSION)

# The linter remembers findings with their paths. Those of another checkout of the same files would not fit the
# rules' paths here.
export GOLANGCI_LINT_CACHE := $(CURDIR)/bin/lint-cache

.PHONY: help test race nested platforms fips lint prose fmt release-check cover bench compare mutate fuzz soak coherence demo demo-postgres examples ci redis-server chromium postgresql

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: redis-server ## run the tests of the library, with the race detector
	$(GO) test -race -shuffle=on -timeout $(TEST_TIMEOUT) -p 1 -parallel $(TEST_PARALLEL) ./...

race: test nested ## the same, and the tests of the nested modules

# Where a user may build: each with its tests, which are not run but on 32 bits, where this machine can.
PLATFORMS := linux/386 linux/arm windows/amd64 darwin/arm64 js/wasm

platforms: ## build and vet the library with its tests for other systems, and run its memory tests on 32 bits
	@set -e; for p in $(PLATFORMS); do for m in . cachetest debug otel postgres prometheus; do \
		echo "== $$p $$m: go vet"; \
		(cd $$m && CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) vet ./...); \
	done; done
	CGO_ENABLED=0 GOARCH=386 $(GO) test -timeout $(TEST_TIMEOUT) ./internal/table
	CGO_ENABLED=0 GOARCH=386 $(GO) test -timeout $(TEST_TIMEOUT) -run '/^memory$$' .

fips: redis-server ## run a part of the conformance suite of each backend with nothing but FIPS 140 cryptography
	GODEBUG=fips140=only $(GO) test -timeout $(TEST_TIMEOUT) -run '^TestConformance$$/^(memory|rueidis|rueidis-aside)$$/^G[5-9]_' .

nested: redis-server chromium postgresql
	@set -e; for m in $(filter-out .,$(MODULES)); do \
		echo "== $$m: go test -race"; \
		(cd $$m && $(GO) test -race -shuffle=on -timeout $(TEST_TIMEOUT) ./...); \
	done

lint: $(LINT) ## check every module with golangci-lint
	@set -e; for m in $(MODULES); do echo "== $$m: golangci-lint"; (cd $$m && $(LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...); done

prose: ## count how often comments and documents name no actor (ARGS=-v: where)
	$(GO) run ./internal/prose $(ARGS)

fmt: $(LINT) ## format every module with gofumpt and gci
	@set -e; for m in $(MODULES); do (cd $$m && $(LINT) fmt --config $(CURDIR)/.golangci.yml ./...); done

release-check: ## build a program outside of the repository against each module, as if the release were tagged
	$(GO) run ./internal/release

cover: redis-server ## show the statements of the root package that no test reaches
	$(GO) test -timeout $(TEST_TIMEOUT) -coverprofile=coverage.out .
	$(GO) tool cover -func=coverage.out | tail -1
	@echo "go tool cover -html=coverage.out shows which"

bench: redis-server ## measure the library's own benchmarks
	$(GO) test -run '^$$' -bench . -benchmem .

compare: redis-server ## measure beside other libraries and draw the pictures, ten minutes (ARGS='-short': does it run?)
	cd benchmarks && $(GO) run . $(or $(ARGS),-out ../docs/img -doc ../docs/benchmarks.md)

mutate: redis-server postgresql ## break the library in every way on a list, and see the tests notice (ARGS=-list, -only PATTERN)
	$(GO) run ./internal/mutate $(ARGS)

fuzz: ## fuzz each target for a minute (FOR=10m for longer)
	@set -e; for f in $$($(GO) test -list '^Fuzz' . | grep '^Fuzz'); do \
		$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(or $(FOR),1m) .; \
	done

soak: redis-server ## run all backends under load and random faults for two minutes, to a verdict (FOR=1h for longer)
	$(GO) test -race -count=1 -timeout 0 -v -run '^TestSoak$$' ./internal/soak -soak.for=$(or $(FOR),2m)

coherence: redis-server ## try hard to see an outdated near copy, for 20 seconds (FOR=5m for longer)
	$(GO) test -race -count=1 -timeout 0 -v -run '^(TestCoherence|TestCoherenceOfABus|TestAProcessReadsItsOwnWrites)$$' . -coherence.duration=$(or $(FOR),20s)

demo: ## show 1,000 concurrent requests for one user reach the database once (CACHE=... for Redis)
	cd examples && $(GO) run ./userservice -demo

demo-postgres: postgresql ## show that a row which psql has changed is seen at once, on a server of its own
	cd examples && $(GO) run ./postgresfeed -demo

examples: ## run the examples, to their ends
	cd examples && $(GO) run ./quickstart && $(GO) run ./freshness
	$(MAKE) --no-print-directory demo
	$(MAKE) --no-print-directory demo-postgres

ci: test ## everything that must pass before a change goes in
	$(MAKE) --no-print-directory -j 2 lint mutate nested platforms fips release-check # the first computes, the next mostly wait
	$(MAKE) --no-print-directory examples
	$(MAKE) --no-print-directory compare ARGS=-short

redis-server chromium postgresql:
	@.ci/need $@

# Installed under its version, so that a new version is a new file.
$(LINT):
	GOBIN=$(CURDIR)/bin/install $(GO) install -trimpath github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/install/golangci-lint $@
	rmdir bin/install
