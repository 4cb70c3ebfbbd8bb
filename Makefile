# Each directory with a go.mod is a module of its own. They are tested as their users see them, without a
# workspace.
export GOWORK := off

GO      ?= go
MODULES := $(patsubst %/,%,$(dir $(shell find . -name go.mod -not -path './bin/*' | sort)))

# Tests run twice as long under the race detector, and some start servers and processes.
TEST_TIMEOUT := 10m

LINT_VERSION := v2.12.2
LINT         := $(CURDIR)/bin/golangci-lint-$(LINT_VERSION)

.PHONY: help test race lint fmt cover demo bench ci redis examples

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: redis ## run the tests of the library
	$(GO) test -shuffle=on -timeout $(TEST_TIMEOUT) ./...

race: redis ## run the tests of every module, with the race detector
	@set -e; for m in $(MODULES); do \
		echo "== $$m: go test -race"; \
		(cd $$m && $(GO) vet ./... && $(GO) test -race -shuffle=on -timeout $(TEST_TIMEOUT) ./...); \
	done

cover: redis ## show the statements of the root package that no test reaches
	$(GO) test -timeout $(TEST_TIMEOUT) -coverprofile=coverage.out .
	$(GO) tool cover -func=coverage.out | tail -1
	@echo "go tool cover -html=coverage.out shows which"

lint: $(LINT) ## check every module with golangci-lint
	@set -e; for m in $(MODULES); do echo "== $$m: golangci-lint"; (cd $$m && $(LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yml ./...); done

fmt: $(LINT) ## format every module with gofumpt and gci
	@set -e; for m in $(MODULES); do (cd $$m && $(LINT) fmt --config $(CURDIR)/.golangci.yml ./...); done

bench: ## measure the library's own benchmarks
	$(GO) test -run '^$$' -bench . -benchmem .

demo: ## show 1,000 concurrent requests for one user reach the database once (CACHE=... for Redis)
	cd examples && $(GO) run ./userservice -demo

examples: ## run the examples, as the README says
	cd examples && $(GO) run ./quickstart && $(GO) run ./freshness
	$(MAKE) --no-print-directory demo

ci: lint race examples ## everything that must pass before a change goes in

redis:
	@.ci/redis-server

# Installed under its version, so that a new version is a new file.
$(LINT):
	GOBIN=$(CURDIR)/bin/install $(GO) install -trimpath github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/install/golangci-lint $@
	rmdir bin/install
