# One command for everything; CI calls the same recipes.
.DEFAULT_GOAL := help
SHELL := /bin/sh
CARGO := cargo
# Keys are made and destroyed in the tests: never with a developer's own token or configuration.
unexport SOFTHSM2_CONF

.PHONY: help demo test test-clients bench lint docs fuzz proto vectors build

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
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace --all-features

test-clients: ## Try SPIFFE clients in other languages (go-spiffe, py-spiffe) against the agent
	@scripts/packages build test clients
	@command -v go >/dev/null 2>&1 || { echo "Go is missing: install it (1.25 or later) from https://go.dev/dl or your distribution."; exit 1; }
	$(CARGO) build --locked --workspace --bins
	swtpm-tests/clients/run

bench: ## Measure against raw limits in the same run
	@scripts/packages build test
	$(CARGO) build --release --locked -p hardroot-server -p hardroot-agent -p hardroot-swtpm-tests --bins
	$(CARGO) run --release --quiet --locked -p hardroot-swtpm-tests --bin hardroot-measure

lint: ## Formatting, clippy, licences, crate edges, advisories, generated code
	@scripts/packages build
	@scripts/lint-tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(CARGO) deny --locked check licenses bans sources
	scripts/audit
	$(CARGO) run --quiet --locked -p hardroot-xtask -- proto --check

docs: ## Build the API documentation
	@scripts/packages build
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

fuzz: ## Fuzz every decoder for a minute each (nightly Rust and cargo-fuzz)
	@scripts/packages build
	cd fuzz && for target in $$(cargo +nightly fuzz list); do cargo +nightly fuzz run $$target -- -max_total_time=60 || exit 1; done

proto: ## Generate the API code from the .proto files
	$(CARGO) run --quiet --locked -p hardroot-xtask -- proto

vectors: ## Record the TPM test vectors anew from swtpm
	@scripts/packages build test
	$(CARGO) run --quiet --locked -p hardroot-tpm-attestor --features device --example record_vectors
