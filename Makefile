# Cairn. `make help` lists the targets; each section belongs to one part of the house.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TARGET := x86_64-unknown-linux-gnu

##@ Start here

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Host

# What a fresh Debian 12 lacks. Everything else is in the toolbox, at the same versions on every machine.
HOST_PACKAGES := build-essential pkg-config ca-certificates mmdebstrap systemd-container util-linux git iproute2 dnsmasq-base python3-venv

.PHONY: setup
setup: ## Install what this host lacks (apt; root or sudo)
	@command -v apt-get >/dev/null || { echo "setup: this host has no apt-get; install by hand: $(HOST_PACKAGES) and Rust 1.95" >&2; exit 1; }
	@missing=(); for p in $(HOST_PACKAGES); do \
	  [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null || true)" = installed ] || missing+=($$p); done; \
	command -v $(CARGO) >/dev/null || missing+=(rustc-web cargo-web); \
	if [ $${#missing[@]} = 0 ]; then echo "setup: nothing is missing"; exit 0; fi; \
	[ -z "$(SUDO)" ] || sudo -n true 2>/dev/null || sudo -v || { echo "setup: needs root or sudo to install: $${missing[*]}" >&2; exit 1; }; \
	echo "setup: installing $${missing[*]}"; \
	$(SUDO) apt-get -q update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$${missing[@]}" \
	  || { echo "setup: apt-get could not install: $${missing[*]}; see its messages above" >&2; exit 1; }; \
	echo "setup: done"

##@ Image

# Overridable: make image KERNEL=cloud TRUST=dir VERSION=1.2.3 IMAGE_OUT=dir IMAGE_FLAGS="--cmdline-extra no_timer_check"
KERNEL ?= generic
VERSION ?= $(if $(TRUST),,0.1.0)
TRUST ?=
IMAGE_OUT ?= target/image
IMAGE_FLAGS ?=
AGENT := target/$(TARGET)/agent/cairn-agent

# A position-independent program relocates itself when it starts; packed, its table has 200 KB less and is read faster.
# image/tests/common/static_program.rs has the same.
STATIC_FLAGS := -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs

.PHONY: toolbox
toolbox: ## Build the cached Debian root with QEMU, firmware and build tools
	$(CARGO) run --quiet -p cairn-image -- toolbox ensure

.PHONY: agent
agent: ## Build the static agent binary
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build -p cairn-agent --profile agent --target $(TARGET)

.PHONY: image
image: agent ## Build kernel, initramfs, UKI, USB image, SBOM into target/image
	$(CARGO) run --quiet -p cairn-image -- build --kernel $(KERNEL) --agent $(AGENT) $(if $(VERSION),--version $(VERSION)) \
	  $(if $(TRUST),--trust $(TRUST)) --out $(IMAGE_OUT) $(IMAGE_FLAGS)

##@ Lab

RACK ?= qemu-tests/racks/first-light.toml
LAB_FLAGS ?=

.PHONY: lab-tools
lab-tools: agent
	$(CARGO) build --quiet -p cairn-lab -p cairn-controller -p cairnctl -p cairn-image

.PHONY: lab
lab: lab-tools ## Boot a rack in QEMU and watch it come up (RACK=file, LAB_FLAGS="--keep")
	target/debug/cairn-lab run $(RACK) $(LAB_FLAGS)

.PHONY: bench-boot
bench-boot: lab-tools ## Boot to enrolment beside an init that only prints: CPU time, ratio
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --quiet -p cairn-image --bin cairn-print-init --profile agent --target $(TARGET)
	target/debug/cairn-lab bench $(LAB_FLAGS)

.PHONY: lab-clean
lab-clean: ## Remove what killed lab runs left behind
	$(CARGO) run --quiet -p cairn-lab -- clean

##@ Proof

# The programs that tests start are built by the same command as the tests: no test builds them again.
# How many tests run at a time is the runner's: RUST_TEST_THREADS=1 make test is one at a time.
RUNNER := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/qemu-tests/test-runner
TEST := $(RUNNER) CAIRN_BIN_DIR=$(CURDIR)/target/debug $(CARGO) test --workspace --no-fail-fast

.PHONY: test
test: setup agent ## Prove it: lints, unit, property and foreign-client tests, refusals, racks, the main line
	$(CARGO) fmt --check
	@if $(CARGO) clippy --version >/dev/null 2>&1; then $(CARGO) clippy --quiet --workspace --all-targets -- -D warnings; \
	else echo "test: this Rust has no clippy; lints were not run"; fi
	$(TEST) --no-run
	$(TEST)
	target/debug/cairn-lab run $(LAB_FLAGS)

.PHONY: soak
soak: agent deny ## What is long or rare: double builds of the real layer, killed toolbox builds, ten minutes of fuzzing a parser
	$(TEST) --no-run
	$(TEST) -- --include-ignored
	$(MAKE) fuzz FUZZ_SECONDS=600

# The advisories need a clone of their database, which CI may not reach: where one is, `cargo deny check advisories`.
# Built once into the cache, 5 minutes on two cores: too long for `make test`.
DENY_VERSION := 0.20.2
DENY_ROOT := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cairn/cargo-deny-$(DENY_VERSION)

.PHONY: deny
deny: ## Licences, sources and banned crates of everything that is linked (cargo-deny)
	@[ -x $(DENY_ROOT)/bin/cargo-deny ] || $(CARGO) install --locked --quiet --root $(DENY_ROOT) cargo-deny@$(DENY_VERSION)
	PATH="$(DENY_ROOT)/bin:$$PATH" $(CARGO) deny --offline check bans licenses sources

.PHONY: bench
bench: bench-boot ## Benchmarks: parsers and crypto (criterion), install against sha256sum + dd, boot against an init that prints
	$(CARGO) bench -p cairn-bundle --bench cores --bench install

# SanitizerCoverage by stable codegen flags, for our own crates alone: no nightly compiler is needed, and what they link is compiled
# as it is.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1
FUZZ_BIN := target/fuzz/$(TARGET)/release/cairn-fuzz
# Seconds for each fuzz target: 3 in `make test`; `make soak` gives each ten minutes.
FUZZ_SECONDS ?= 3

.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZ_SECONDS each
	cd qemu-tests/fuzz && CAIRN_FUZZ_FLAGS="$(FUZZ_FLAGS)" RUSTC_WRAPPER=$(CURDIR)/qemu-tests/fuzz/rustc CARGO_TARGET_DIR=../../target/fuzz \
	  $(CARGO) build -q --release --target $(TARGET)
	@names=$$({ CAIRN_FUZZ_TARGET=? CAIRN_FUZZ_CORPUS=target/fuzz/corpus $(FUZZ_BIN) -artifact_prefix=target/fuzz/ 2>&1 </dev/null || true; } | sed -n 's/.*one of: //p'); \
	[ -n "$$names" ] || { echo "fuzz: no targets" >&2; exit 1; }; \
	for name in $$names; do \
	  corpus=target/fuzz/corpus/$$name; mkdir -p $$corpus target/fuzz/artifacts; \
	  seeds=$$(ls -d qemu-tests/fuzz/seeds/$$name 2>/dev/null || true); \
	  CAIRN_FUZZ_TARGET=$$name $(FUZZ_BIN) -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
	    -artifact_prefix=target/fuzz/artifacts/$$name- $$corpus $$seeds >target/fuzz/$$name.log 2>&1 \
	    || { tail -n 30 target/fuzz/$$name.log >&2; echo "fuzz: $$name failed; the input is in target/fuzz/artifacts/" >&2; exit 1; }; \
	  awk -v n=$$name '/number_of_executed_units/{print "fuzz: " n ": " $$2 " runs, no failure"}' target/fuzz/$$name.log; \
	done
