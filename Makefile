# One command for everything; CI calls the same recipes.
.DEFAULT_GOAL := help
SHELL := /bin/sh
CARGO := cargo
# Keys are made and destroyed in the tests: never with a developer's own token or configuration.
unexport SOFTHSM2_CONF
# The daemons that whole-system tests start, with the features that the tests' dependencies have anyway: every crate is
# compiled once, not once for the daemons and once for the tests.
BUILD_FOR_TESTS := $(CARGO) build --locked --workspace --all-features --all-targets
# What is measured and what measures, as released.
BUILD_TO_MEASURE := $(CARGO) build --release --locked -p hardroot-server -p hardroot-agent -p hardroot-bench -p hardroot-swtpm-tests \
	--bin hardroot-server --bin hardroot-agent --bin hardroot-bench --bin hardroot-measure

.PHONY: help demo test test-clients bench bench-fleet lint docs fuzz golden proto vectors build

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

build: ## Build the server and the agent (release)
	@scripts/packages build
	$(CARGO) build --release --locked -p hardroot-server -p hardroot-agent

demo: ## Show the main job on emulated hardware (KEEP=1 leaves it running)
	@scripts/packages build demo
	@$(CARGO) build --locked -p hardroot-server -p hardroot-agent -p hardroot-swtpm-tests --bins
	@$(CARGO) run --quiet --locked -p hardroot-swtpm-tests --bin hardroot-demo -- $(if $(KEEP),--keep,)

test: ## Run every test (Rust and Debian packages are all it needs)
	@scripts/packages build test
	$(BUILD_FOR_TESTS)
	$(CARGO) test --locked --workspace --all-features

test-clients: ## Try SPIFFE clients in other languages (go-spiffe, py-spiffe) against the agent
	@scripts/packages build test clients
	@command -v go >/dev/null 2>&1 || { echo "Go is missing: install it (1.25 or later) from https://go.dev/dl or your distribution."; exit 1; }
	$(BUILD_FOR_TESTS)
	swtpm-tests/clients/run

bench: ## Measure against raw limits in the same run (ROWS="agent" for some of them)
	@scripts/packages build test
	$(BUILD_TO_MEASURE)
	$(CARGO) build --release --locked -p hardroot-pkcs11-shim
	$(CARGO) run --release --quiet --locked -p hardroot-swtpm-tests --bin hardroot-measure -- $(ROWS)

bench-fleet: ## Measure 5,000 agents and 10,000 workloads on one server, four times ten minutes
	@scripts/packages build test
	$(BUILD_TO_MEASURE)
	$(CARGO) run --release --quiet --locked -p hardroot-swtpm-tests --bin hardroot-measure -- fleet
	@echo "Latencies over time: target/release/fleet-*.svg"

lint: ## Formatting, clippy, licences, crate edges, fuzz targets, advisories, generated code
	@scripts/packages build
	@scripts/lint-tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(CARGO) deny --locked check licenses bans sources
	scripts/fuzz-check
	scripts/audit
	$(CARGO) run --quiet --locked -p hardroot-xtask --no-default-features -- proto --check

docs: ## Build the API documentation, man pages and shell completions (into target/)
	@scripts/packages build
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(CARGO) run --quiet --locked -p hardroot-xtask -- man target/man
	$(CARGO) run --quiet --locked -p hardroot-xtask -- completions target/completions

golden: ## Write anew what the commands are held to print (server/tests/golden)
	HARDROOT_WRITE_GOLDEN=1 $(CARGO) test --locked -p hardroot-server --lib cli::golden

fuzz: ## Fuzz every decoder for a minute each (TIME=600 TARGET=csr: one of them longer)
	@scripts/packages build
	@scripts/fuzz $(or $(TIME),60) $(TARGET)

proto: ## Generate the API code from the .proto files
	$(CARGO) run --quiet --locked -p hardroot-xtask --no-default-features -- proto

vectors: ## Record the TPM test vectors anew from swtpm
	@scripts/packages build test
	$(CARGO) run --quiet --locked -p hardroot-tpm-attestor --features device --example record_vectors
