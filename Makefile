# Targets: see make help. PKGS narrows test, lint and fuzz to some packages.

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X main.version=$(VERSION)
DATA     ?= engramfs-data
ARGS     ?=
FUZZTIME ?= 30s
PKGS     ?= ./...
STORM    ?= 20
E2E      ?= .

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# The version comes from git describe above: Go's own stamping fails in a clone
# that another user owns, as in many containers.
export GOFLAGS += -buildvcs=false

# The race detector needs cgo, and cgo a C compiler; the program itself needs neither.
ifeq ($(shell go env CGO_ENABLED),1)
RACE := -race
endif

# Tests that need external programs fail in CI instead of being skipped.
ifeq ($(CI),true)
export REQUIRE_ALL := 1
endif

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build run test deps vet unit e2e lint bench torture fuzz clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

build: ## build ./engramfs, static and without cgo
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o engramfs ./cmd/engramfs

run: build ## build and serve the folder DATA (engramfs-data); more flags in ARGS
	./engramfs serve --data '$(DATA)' $(ARGS)

test: deps vet unit e2e ## vet, and every test; prints what was measured
	@echo 'make test: all passed'

deps:
	@.ci/deps

vet:
	go vet $(PKGS)

# Lines about tests that pass are left out, what they print is not.
QUIET := grep -Ev '^ *(=== |--- PASS|PASS$$|[a-z_]+\.go:[0-9]+: \[rapid\] OK)|no test files'

unit:
	@$(if $(RACE),,echo 'make test: no C compiler, so the race detector is off')
	go test -count=1 -run Allocate ./store/poison
	go test $(RACE) -count=1 -timeout 14m -v $$(go list $(PKGS) | grep -v '/internal/e2e$$') | $(QUIET)

e2e:
	go test -count=1 -timeout 20m -v -run '$(E2E)' ./internal/e2e | $(QUIET)

lint: ## gofmt, go vet, staticcheck, golangci-lint (import rules)
	@unformatted="$$(gofmt -l .)"; if [ -n "$$unformatted" ]; then echo "gofmt -w $$unformatted"; exit 1; fi
	go vet $(PKGS)
	go run $(STATICCHECK) $(PKGS)
	go run $(GOLANGCI) run $(PKGS)

bench: ## measure against the other servers that are installed; flags in ARGS
	go run ./internal/bench $(ARGS)

# ENGRAMFS_LONG: the long form of every end-to-end test. ENGRAMFS_KILLS: cycles of
# kill -9. ENGRAMFS_STRESS: seconds for each of stress-ng's stressors. ENGRAMFS_CUTS:
# power cuts, on a disk and simulated ones. ENGRAMFS_STORM: seconds of the storm.
# ENGRAMFS_FLIPS: flipped bits. ENGRAMFS_TORN: variants of each simulated cut.
# STORM: repetitions of the stress tests. TORTURE.md says what each one does.
torture: ## the long tests: some hours; end-to-end tests that match E2E
	@.ci/deps torture
	ENGRAMFS_LONG=1 ENGRAMFS_KILLS=1000 ENGRAMFS_STRESS=120 go test ./internal/e2e -count=1 -timeout 10h -v -run '$(E2E)'
	ENGRAMFS_LONG=1 go test ./internal/torture -count=1 -timeout 10h -v | $(QUIET)
	ENGRAMFS_CUTS=300 go test $(RACE) -count=$(STORM) -timeout 3h -run 'Storm|Cut|Crash|Model|Machine|Matrix' ./store/...

fuzz: ## every fuzz target for FUZZTIME (30s)
	@for pkg in $$(go list $(PKGS)); do \
	  list="$$(go test -list '^Fuzz' $$pkg)"; \
	  for target in $$(grep '^Fuzz' <<<"$$list" || true); do \
	    echo "$$pkg $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime '$(FUZZTIME)' $$pkg; \
	  done; \
	done

clean: ## remove the binary and the test cache, never data
	rm -f engramfs
	go clean -testcache
