# What a newcomer needs: make run, make test. Every few minutes: make check. What
# CI runs: make lint test.

.PHONY: help run build check test faults chaos spellings sdks screenshots dashboard audit lint fuzz bench bench-baseline bench-load bench-memory plots cover release

build: ## builds ./caddy from this tree
	go build -o caddy ./cmd/caddy

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## the demo, on http://localhost:8080
	./examples/run.sh

check: ## builds, vets and runs the tests that need no browser and no database
	go build ./...
	go vet ./...
	@$(GOFMT)
	go test -short ./...

# The race detector is C. Go switches C off where it finds no compiler. With it the
# chaos would be slow, and most of what it waits for a matter of that.
test: ## every test, with the race detector; installs what they need
	./tests/setup.sh
	CGO_ENABLED=1 go test -race -shuffle=on -timeout 30m $$(go list ./... | grep -v /tests/chaos$$)
	go test -timeout 30m ./tests/faults
	go test -timeout 30m ./tests/chaos

# Under the race detector, where all else runs, a request costs eight times as
# much; so make test sends the many without it.
FAULTS ?= 1000000
faults: ## FAULTS (1000000) requests of every kind, while everything fails that can
	FAULTS=$(FAULTS) go test -v -count=1 -timeout 2h ./tests/faults

CHAOS ?= 60
chaos: ## CHAOS (60) minutes of random faults in a fleet under load; CHAOS_SEED=… has a run again
	./tests/setup.sh
	CHAOS=$(CHAOS) go test -v -count=1 -timeout 24h ./tests/chaos

spellings: ## learns anew what real servers take for a route (tests/spellings/table.txt)
	./tests/setup.sh spellings
	go test -count 1 -run RealServers ./tests -learn-spellings

sdks: ## tries real SDKs in every way, in Chromium and Firefox (tests/sdks/table.txt); two minutes
	./tests/setup.sh
	go test -count 1 -run TestSDKs ./tests/browser -learn-sdks

screenshots: ## docs/demo.png and docs/preference-page.png, as Chromium shows them
	./tests/setup.sh
	DEMO_SCREENSHOT="$$PWD/docs/demo.png" go test -count 1 -run 'TestDemo$$' ./tests
	shots=$$(mktemp -d) && SCREENSHOTS="$$shots" go test -count 1 -run TestPreference ./tests/browser && \
		cp "$$shots/signed-in-chromium.png" docs/preference-page.png

dashboard: ## has the dashboard show what really happens, and draws it (docs/dashboard.svg); five minutes
	./tests/setup.sh
	go test -count 1 -run 'TestDashboard$$' ./tests -draw-dashboard

audit: ## simulates a month, and writes what can be shown for it (docs/audit.md); two minutes
	./tests/setup.sh
	go test -count 1 -run TestAudit ./tests -simulate-month

# Go runs one target of one package at a time.
FUZZTIME ?= 1m
fuzz: ## each fuzz target for FUZZTIME (1m)
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

bench: ## benchmarks of every step, compared with those of this machine; docs/measurements.md says more
	./internal/bench/bench.sh

bench-baseline: ## has the latest make bench be what later ones are compared with
	./internal/bench/bench.sh baseline

# BENCH_ROUNDS (5) and BENCH_SECONDS (3) shorten both; BENCH_USERS is a list of
# how many users are cached.
bench-load: ## the binary under load, beside bare Caddy, forward_auth and what else is installed
	@mkdir -p internal/bench/results
	go run ./internal/bench/cmd/load -out internal/bench/results/load.json

bench-memory: ## the binary with up to a million users cached
	@mkdir -p internal/bench/results
	go run ./internal/bench/cmd/load -memory -out internal/bench/results/memory.json

plots: ## tables and plots of docs/performance.md and docs/measurements.md, from the latest results
	go run ./internal/bench/cmd/plot

cover: ## statement coverage of each package, by its own tests
	go test -cover $$(go list -f '{{if .GoFiles}}{{.ImportPath}}{{end}}' ./...)

GOFMT := test -z "$$(gofmt -l .)" || { gofmt -l .; echo "not gofmt-ed: run gofmt -w ."; exit 1; }

release: ## reproducible archives of VERSION (v0.1.0) in dist/; ten minutes the first time
	./tools/release.sh "$(VERSION)"

# The tools are pinned in a module of their own, so that they raise nothing
# that a user of ours builds. Go builds them once and caches them.
TOOL := go tool -modfile=tools/go.mod

lint: ## linters, of the Dockerfile too, tidy modules, known vulnerabilities
	@$(GOFMT)
	go vet ./...
	$(TOOL) golangci-lint run ./...
	go mod tidy -diff
	cd tools && go mod tidy -diff
	cd tools/dockerlint && go mod tidy -diff && go run . ../../deploy/Dockerfile
	cd tools/dashboard && go mod tidy -diff && go vet ./... && go test -count 1 ./...
	@report=$$(mktemp); \
	if $(TOOL) govulncheck ./... > $$report 2>&1; then tail -n 1 $$report; \
	elif grep -q 'fetching vulnerabilities' $$report; then \
		echo 'govulncheck: its database cannot be reached from here, so nothing was checked'; \
	else cat $$report; exit 1; fi
