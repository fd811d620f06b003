# The one door to the tools. `make help` lists what there is.

.DEFAULT_GOAL := help
.PHONY: help run test clients fmt clippy check bench log history fixtures soak

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 16

run: ## build quickly and start the demo on the default ports
	cargo run --profile quick --bin aquifer -- demo

test: clients fmt clippy ## install the foreign clients, check format and lints, run every test
	cargo test --workspace

clients:
	tests/clients/install

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets -- -D warnings

check: fmt clippy ## format and lints alone; licences and sources too where cargo-deny is installed
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: deny.toml not checked"; fi

bench: ## measure a release build; `make bench log`: beside Kafka and others; `make bench history`: SQL beside DuckDB
	$(if $(filter log,$(MAKECMDGOALS)),benchmarks/peers/install)
	$(if $(filter history,$(MAKECMDGOALS)),benchmarks/peers/install duckdb)
	cargo build --release --workspace --bins
	cargo run --release --bin aquifer-benchmarks -- $(filter log history,$(MAKECMDGOALS)) $(BENCH)

log history: # words behind `bench`
	@:

sim: ## simulated histories of the storage: SEED=7 repeats one, SEEDS=2000 runs that many, BASE_SEED=1 says from where
	AQUIFER_SEED=$(SEED) AQUIFER_SEEDS=$(SEEDS) AQUIFER_BASE_SEED=$(BASE_SEED) cargo test -p aquifer-storage --test simulation -- --nocapture many_histories

fixtures: ## write tests/fixtures/v4 anew, for a format that nobody has in use yet
	cargo test -p aquifer-storage --test it -- --ignored kept::writes_the_fixture

soak: clients ## every test that has a long form, at its full length (hours); tests/README.md lists them with what they saw
	AQUIFER_SOAK=1 cargo test --workspace --test system -- --nocapture kills:: by_chance
	AQUIFER_SOAK=1 cargo test -p aquifer-storage --release --lib -- --nocapture manifests_that_name_many_objects wherever_a_bit_flips
	AQUIFER_SEEDS=2000 cargo test -p aquifer-storage --release --test simulation -- --nocapture many_histories
	AQUIFER_HOUR=1 cargo test -p aquifer-storage --release --test simulation -- --nocapture many_partitions
	AQUIFER_HISTORY_CASES=300 cargo test --workspace --test it -- --nocapture a_select_equals_the_same_select
	AQUIFER_ORACLE_CASES=500 cargo test --workspace --test it -- --nocapture a_continuous_query_equals_the_batch
	tests/fuzz/run 10000000
