# What a newcomer needs: make run, make test. What CI runs: make lint test.

.PHONY: run build test lint fuzz bench cover

build: ## builds ./caddy from this tree
	go build -o caddy ./cmd/caddy

run: build ## the demo, on http://localhost:8080
	./examples/run.sh

test: ## every test, with the race detector; installs what they need
	./tests/setup.sh
	go test -race -shuffle=on -timeout 20m ./...

# Each fuzz target for FUZZTIME. Go runs one target of one package at a time.
FUZZTIME ?= 1m
fuzz:
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

bench: ## benchmarks of every step; compare two runs with: go tool -modfile=tools/go.mod benchstat
	go test -run '^$$' -bench . -benchmem -count $(or $(COUNT),1) ./...

cover: ## statement coverage by package
	go test -cover ./policy ./token ./session ./profileclient ./profileserver ./caddymodule

# The tools are pinned in a module of their own, so that they raise nothing
# that a user of ours builds. Go builds them once and caches them.
TOOL := go tool -modfile=tools/go.mod

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "not gofmt-ed: run gofmt -w ."; exit 1; }
	go vet ./...
	$(TOOL) golangci-lint run ./...
	go mod tidy -diff
	cd tools && go mod tidy -diff
	@report=$$(mktemp); \
	if $(TOOL) govulncheck ./... > $$report 2>&1; then tail -n 1 $$report; \
	elif grep -q 'fetching vulnerabilities' $$report; then \
		echo 'govulncheck: its database cannot be reached from here, so nothing was checked'; \
	else cat $$report; exit 1; fi
