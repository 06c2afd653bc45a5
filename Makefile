# What can be done with this repository: make help
#
# Everything works as root and as a normal user. The cluster that the tests,
# the demo and the benches need is built once per machine, by the testbed.

.DEFAULT_GOAL := help
# Everything is a step after another; cargo has its own ways to use all cores.
.NOTPARALLEL:
.PHONY: help test nightly chaos demo demo-shell bench soak build image generate lint clean bins rust go

# The versions that are needed, from where they are written down anyway.
RUST_NEEDED := $(shell sed -n 's/^rust-version = "\(.*\)"$$/\1/p' Cargo.toml)
GO_NEEDED := $(shell sed -n 's/^go \([0-9.]*\)$$/\1/p' tests/control-plane/go.mod)

TARGET := $(or $(CARGO_TARGET_DIR),target)
TESTBED_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sharedlb-testbed

# cargo-deny is the installed one, or ours, which goes with `make clean`.
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(or $(shell command -v cargo-deny),$(TARGET)/tools/bin/cargo-deny)

# Runs a command with a limit in seconds, and prints how long it took.
STEP := $(CURDIR)/tests/step
# Runs each test program as a step of its own.
EACH_TEST := cargo --config "target.'cfg(all())'.runner = ['$(STEP)', '900', '--test']" \
    test --workspace --all-features --lib --bins --tests

# On stderr, so that what comes on stdout is the result alone.
say = @printf '\n== %s\n' "$(1)" >&2

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

test: rust go lint demo ## Check everything: lint, the demo, and all tests
	@$(STEP) 600 'Tests in the documentation' cargo test --workspace --all-features --doc
	@$(STEP) 1800 'Building the tests' cargo test --workspace --all-features --lib --bins --tests --no-run
	@$(STEP) 3000 'All tests' $(EACH_TEST) --no-fail-fast

# Takes hours: what a change of the model, of allocation or of leadership should
# pass besides `make test`.
nightly: test image ## Check more than make test does: the image, larger models, long chaos, a long soak
	@$(STEP) 3600 'Larger scopes of the model' cargo --config 'profile.test.package.sharedlb.opt-level=2' \
	    test --package sharedlb --all-features --lib class::model -- --ignored --nocapture --test-threads=1
	@for seed in 1 2 3; do \
	    CHAOS_SECONDS=600 CHAOS_SEED=$$seed $(STEP) 1200 "Chaos for 600 s with CHAOS_SEED=$$seed" \
	        cargo test --all-features --test chaos || exit; \
	done
	@$(STEP) 3600 'Soak' cargo bench --bench cluster -- soak

demo: bins ## Show the main job for real, on this machine, in a minute
	@$(STEP) 900 'The demo (a cluster is built for it once per machine: about 6 minutes)' $(TARGET)/debug/sharedlb-demo

demo-shell: bins ## Open a shell in the demo's cluster
	$(call say,A shell in the demo)
	@$(TARGET)/debug/sharedlb-demo shell

# A debug build, since that is a quick one. With all features, as the tests
# have them, so that one build serves both.
bins: rust go
	@$(STEP) 1800 'Building the controller and the demo: a few minutes for the first time' \
	    cargo build --workspace --all-features --bins

bench: rust go ## Measure: one figure a line, as name, value and unit
	$(call say,How long it takes to assign ports)
	@cargo bench --bench assign >&2
	$(call say,How long the library for clients takes)
	@cargo bench --package sharedlb-endpoints --all-features --bench next
	$(call say,How long everything takes with a real API server: about 15 minutes)
	@cargo bench --bench cluster

# Each run has a plan of its own, unless CHAOS_SEED says which.
CHAOS_SECONDS ?= 120
CHAOS_SEED := $(or $(CHAOS_SEED),$(shell date +%s))
chaos: rust go ## Break everything for CHAOS_SECONDS (120), by the plan of CHAOS_SEED, and see that no promise is broken
	$(call say,Chaos for $(CHAOS_SECONDS) s$(,) with CHAOS_SEED=$(CHAOS_SEED))
	CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_SEED=$(CHAOS_SEED) cargo test --all-features --test chaos

soak: rust go ## Change 100 of 10,000 claims a second for 5 minutes (SOAK_SECONDS, SOAK_CLAIMS)
	$(call say,Many claims that change all the time: about 15 minutes)
	@cargo bench --bench cluster -- soak

# The binaries keep the names of functions. The controller's line numbers are in
# a file of its own, which a backtrace reads where it lies beside the binary.
build: rust ## Build what is released: target/release/sharedlb with sharedlb.debug beside it, and kubectl-sharedlb
	cargo build --release --locked --package sharedlb
	cd $(TARGET)/release && objcopy --only-keep-debug sharedlb sharedlb.debug \
	    && objcopy --strip-debug --add-gnu-debuglink=sharedlb.debug sharedlb sharedlb.stripped \
	    && mv sharedlb.stripped sharedlb
	cargo build --release --locked --package sharedlb-plugin
	objcopy --strip-debug $(TARGET)/release/kubectl-sharedlb

image: rust ## Build the image with Docker or buildah (IMAGE: its name without the tag), and start it
	@$(STEP) 3600 'The image' deploy/image/make

# Helm is built by Go. Users need neither, since the files are committed.
generate: rust ## Write the generated files: crds/*.yaml, and deploy/*.yaml from the chart
	cargo run --quiet -- crds --write crds
	cargo run --quiet -- crds --write deploy/chart/files/crds
	deploy/generate

lint: rust $(CARGO_DENY) ## Check what can be read: formatting, licences, clippy, docs
	@$(STEP) 60 Formatting cargo fmt --all --check
	@$(STEP) 120 'Dependencies: licences and sources' $(CARGO_DENY) check licenses bans sources
	@$(STEP) 120 'Dependencies of the core of the providers, and of the plugin' tests/core-dependencies
	@$(STEP) 1800 Clippy cargo clippy --workspace --all-targets --all-features -- --deny warnings
	@RUSTDOCFLAGS='--deny warnings' $(STEP) 900 Documentation cargo doc --workspace --all-features --no-deps

clean: ## Remove what was built here
	cargo clean
	@echo "The cluster's binaries stay, for every clone on this machine: $(TESTBED_CACHE)" >&2

$(TARGET)/tools/bin/cargo-deny: | rust
	@$(STEP) 900 'Building cargo-deny $(CARGO_DENY_VERSION): about a minute$(,) once' \
	    cargo install --debug --quiet --locked --no-default-features --root $(TARGET)/tools cargo-deny@$(CARGO_DENY_VERSION)

# Fails unless the version that a command prints is there, and new enough.
# It takes the language, the command, the version needed, and where to get it.
define require
	@have=$$($(2) 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1); \
	oldest=$$(printf '%s\n' "$$have" "$(3)" | sort -V | head -n 1); \
	if [ "$$oldest" != "$(3)" ]; then \
	    echo "$(1) $(3) or newer is needed, from $(4). Here is $${have:-none}." >&2; exit 1; \
	fi
endef

rust:
	$(call require,Rust,rustc --version,$(RUST_NEEDED),https://rustup.rs)

# Go builds the cluster; it is not needed where that was built already.
go:
ifeq ($(KUBEBUILDER_ASSETS)$(wildcard $(TESTBED_CACHE)/metallb-*/metallb-controller),)
	$(call require,Go,GOTOOLCHAIN=local go env GOVERSION,$(GO_NEEDED),https://go.dev/dl)
endif

# A comma that does not end an argument.
, := ,
