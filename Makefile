# Everything a person or a CI machine does with this tree. `make help` lists it.
# A fresh Debian 12 with git, make and Go is enough: the rest is installed by `make deps`, which says what it installs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Go is often unpacked into /usr/local/go without being in PATH (always so under sudo).
GO := $(shell command -v go || ls /usr/local/go/bin/go 2>/dev/null || echo go-not-found)
ifneq ($(filter /%,$(GO)),)
export PATH := $(patsubst %/,%,$(dir $(GO))):$(PATH)
endif
# dhclient, perfdhcp, mkfs and their like live where a plain user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin

export CGO_ENABLED := 0
export OFFSHOOT_BIN := $(CURDIR)/bin/offshoot
export OFFSHOOT_IMAGE := $(CURDIR)/build/debian13-demo.raw.zst
# What machines of arm64 run.
export OFFSHOOT_ARM64 := $(CURDIR)/build/arm64
# The ROM of cards that are not iPXE, if somebody has made it: .ci/pxerom.
export OFFSHOOT_PXE_ROM := $(CURDIR)/build/pxe.rom
# Logs, captures and disks of scenarios that failed are kept here (docs/testing.md).
export OFFSHOOT_KEEP := $(CURDIR)/build/failed

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

IPXE_DIR := node/internal/boot/ipxe
IPXE := $(addprefix $(IPXE_DIR)/,undionly.kpxe ipxe.efi snponly.efi)
SIGNED_DIR := node/internal/boot/signed
SIGNED := $(addprefix $(SIGNED_DIR)/,shimx64.efi grubx64.efi shimaa64.efi grubaa64.efi)
PROGRAMS := $(IPXE) $(SIGNED)
LINTER := build/tools/golangci-lint
# The linter and vet read the tagged tests too, or nobody would.
TAGS := wire,metal,full,soak
SOURCES = $(wildcard cmd e2e handoff node swarm)
# The packages that hold tests of a tier: those with a test file that is built with its tag only.
tagged = $(sort $(addprefix ./,$(dir $(shell grep -rlE --include='*_test.go' '^//go:build .*\b$(1)\b' $(SOURCES)))))
GOTEST := go run .ci/gotest.go
SIMULATION := ^TestSwarmKeepsItsGuaranteesUnderFaults$$

.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: $(PROGRAMS) ## the static binary bin/offshoot, with the boot programs of Debian inside
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/offshoot ./cmd/offshoot
	@ls -l bin/offshoot | awk '{printf "bin/offshoot %s, %.1f MB\n", "$(VERSION)", $$5/1e6}'

.PHONY: check
check: build format lint ## what must hold before every commit: format, tidy, vet, lint, fast tests
	$(GOTEST) -title rules ./...

.PHONY: format
format: ## gofmt, go mod tidy and go vet have nothing to say
	@bad=$$(gofmt -l $(SOURCES) .ci/*.go); if [ -n "$$bad" ]; then echo "gofmt -w these:" $$bad; exit 1; fi
	go mod tidy -diff
	go vet -tags $(TAGS) ./...
	go vet .ci/gotest.go

.PHONY: lint
lint: $(LINTER) $(PROGRAMS) ## golangci-lint, pinned in .ci/tools, told in .golangci.yml
	$(LINTER) run --build-tags $(TAGS) ./...

.PHONY: test
test: ## everything CI promises: check, wire and metal, with the set-up of a fresh machine (as root)
	.ci/deps build wire metal
	@# One shell, so that the summary closes the output however this ends.
	@rm -rf build/test; trap '$(GOTEST) -summary' EXIT; \
	$(MAKE) check; $(MAKE) sim-tier; $(MAKE) wire-tier; $(MAKE) image; $(MAKE) metal-tier

.PHONY: test-wire
test-wire: ## the wire tier alone: namespaces, foreign DHCP, TFTP and HTTP clients (as root)
	.ci/deps build wire
	$(MAKE) build wire-tier

.PHONY: test-metal
test-metal: ## the metal tier alone: virtual machines from bare disk to member (as root)
	.ci/deps build wire metal
	$(MAKE) build image metal-tier

.PHONY: test-metal-full
test-metal-full: ## the metal tier, and machines through OVMF (UEFI): by PXE, by HTTP, with Secure Boot, of arm64
	.ci/deps build wire metal full
	$(MAKE) build image arm
	$(GOTEST) -title metal-full -live -tags metal,full -p 1 -timeout 240m -count 1 $(call tagged,metal|full)

.PHONY: wire-tier
wire-tier:
	$(if $(call tagged,wire),$(GOTEST) -title wire -tags wire -p 1 -parallel 3 -timeout 15m -count 1 $(call tagged,wire),@echo "no wire tests")

.PHONY: metal-tier
metal-tier:
	$(if $(call tagged,metal),$(GOTEST) -title metal -live -tags metal -p 1 -timeout 25m -count 1 $(call tagged,metal),@echo "no metal tests")

.PHONY: sim-tier
sim-tier: ## whole nodes under a thousand random schedules of faults (SCHEDULES=… for more, SEED=… replays one)
	@# No time limit: a schedule that hangs ends by its own watchdog.
	$(GOTEST) -title simulated -timeout 0 -count 1 -run '$(SIMULATION)' ./node -args -schedules=$(or $(SCHEDULES),1000) $(if $(SEED),-seed=$(SEED))

.PHONY: soak
soak: build ## faults for hours: simulated, then with real binaries (SOAK=1h each; the second part as root)
	OFFSHOOT_SOAK=$(or $(SOAK),1h) go test -timeout 0 -count 1 -v -run '$(SIMULATION)' ./node | grep --line-buffered -v '^=== \|--- PASS'
	OFFSHOOT_SOAK=$(or $(SOAK),1h) go test -tags wire,soak -timeout 0 -count 1 -v -run '^TestSoakOfFaults$$' ./e2e

.PHONY: race
race: $(PROGRAMS) ## the fast tests under the race detector (needs gcc)
	CGO_ENABLED=1 $(GOTEST) -title race -race ./...

.PHONY: demo
demo: ## a throwaway lab on this machine: seed, m1, m2, m3, from bare disks to a swarm (as root)
	.ci/deps build wire metal
	$(MAKE) build image
	go run ./e2e/demo

.PHONY: bench
bench: ## the figures of the project, measured here and now (as root)
	.ci/deps build wire metal
	$(MAKE) build image
	go run ./e2e/bench

.PHONY: bench-lease
bench-lease: ## leases beside Kea and dnsmasq, and the size of a datacentre (as root; PARTS='alone together size' for some)
	.ci/deps build wire bench
	$(MAKE) build
	go run ./e2e/bench lease $(PARTS)

.PHONY: bench-share
bench-share: ## one artifact from one machine to eight, beside aria2c, nginx and udpcast on the same links (as root; SHARE='-rate 0 …')
	.ci/deps build wire bench
	go run ./e2e/bench share $(SHARE)

.PHONY: bench-uplinks
bench-uplinks: ## one artifact to three segments behind uplinks: how often it crosses each (as root; UPLINKS='-size 512 …')
	.ci/deps build wire bench
	go run ./e2e/bench uplinks $(UPLINKS)

.PHONY: bench-install
bench-install: ## thirty machines install themselves beside one node: how often the image leaves it (as root; INSTALL='-machines 12 …')
	.ci/deps build wire bench
	$(MAKE) build
	go run ./e2e/bench install $(INSTALL)

.PHONY: bench-mirror
bench-mirror: ## packages through a node's mirror, beside nginx as a cache and the upstream itself (as root; MIRROR='-only hit …')
	.ci/deps build wire bench
	$(MAKE) build
	go run ./e2e/bench mirror $(MIRROR)

.PHONY: bench-boot
bench-boot: ## how machines get what they boot from, beside dnsmasq, tftpd-hpa and nginx (as root; BOOT='-only tftp,burst …')
	.ci/deps build wire bench
	$(MAKE) build
	go run ./e2e/bench boot $(BOOT)

.PHONY: bench-memory
bench-memory: ## what it costs to hold 10,000 artifacts, idle and while 30 peers fetch (MEMORY='-peers 50 …')
	.ci/deps build
	go run ./e2e/bench memory $(MEMORY)

.PHONY: fuzz
fuzz: $(PROGRAMS) ## every fuzz target for a minute (FUZZTIME=10m for longer)
	.ci/fuzz $(or $(FUZZTIME),60s)

.PHONY: deps
deps: ## install the Debian packages that all tiers need, saying which (as root; else say what is missing)
	.ci/deps build wire metal

.PHONY: image
image: $(OFFSHOOT_IMAGE) ## the golden image of the demo and the metal tier

# Not rebuilt with every new binary: an image of Debian does not depend on ours. `make clean` drops it.
$(OFFSHOOT_IMAGE): | build
	@mkdir -p $(@D)
	bin/offshoot image build debian:13 --kernel linux-image-cloud-amd64 -o $@

.PHONY: arm
arm: $(OFFSHOOT_ARM64)/root $(PROGRAMS) ## what machines of arm64 run: build/arm64/offshoot, and a kernel of Debian below build/arm64/root
	GOOS=linux GOARCH=arm64 go build -trimpath -ldflags '$(LDFLAGS)' -o $(OFFSHOOT_ARM64)/offshoot ./cmd/offshoot

$(OFFSHOOT_ARM64)/root:
	@rm -rf $@.new
	.ci/unpack arm64 $@.new linux-image-cloud-arm64
	mv $@.new $@

$(IPXE) &:
	.ci/ipxe $(IPXE_DIR)

$(SIGNED) &:
	.ci/signed $(SIGNED_DIR)

$(LINTER): .ci/tools/go.mod .ci/tools/go.sum
	@echo "building golangci-lint (once; about three minutes on two cores)"
	@mkdir -p $(@D)
	go -C .ci/tools build -trimpath -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: clean
clean: ## remove everything that make has made
	rm -rf bin build $(PROGRAMS)
