# Every command of the project. `make help` lists them; CI runs these targets and no other commands.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

ADDRESS ?= 127.0.0.1:50051
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# The uv on the PATH where there is one, else one that is installed into .venv.
UV = $$(command -v uv || echo $(BIN)/uv)
PROTOS := $(sort $(wildcard proto/hubwire/v1/*.proto))
GENERATED := clients/python/hubwire/v1
NATIVE := $(shell find native -name '*.rs' -o -name Cargo.toml)

.PHONY: build serve test lint format generate generate-check proto-breaking test-native profile bench bench-record instructions instructions-record \
	bench-load bench-peers bench-growth bench-tasks soak lock clean help

build: $(STAMPS)/project ## Make .venv with everything in it, and build the Rust core.

serve: build ## Serve the demo models on ADDRESS (default 127.0.0.1:50051).
	exec $(BIN)/hubwire serve --demo --address $(ADDRESS)

test: build test-native $(BIN)/grpcurl ## Run every test suite.
	$(BIN)/python -m pytest

test-native: build ## Run the tests of the Rust core.
	cargo test --quiet --manifest-path native/Cargo.toml --package hubwire-core

lint: build ## Check format, lint, types, stubs, imports, protos and generated code.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy server/hubwire_server clients/python/hubwire
	$(BIN)/python -m mypy.stubtest hubwire_server._native
	$(BIN)/lint-imports --no-cache
	cargo fmt --manifest-path native/Cargo.toml --all --check
	cargo clippy --quiet --manifest-path native/Cargo.toml --workspace --all-targets -- -D warnings
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	$(MAKE) --no-print-directory proto-breaking generate-check

# The last release is the contract; before the first one, the commit before this one.
proto-breaking: build ## Fail where the protos break the contract of AGAINST (default: the last release).
	@against="$${AGAINST:-$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git rev-parse --verify --quiet HEAD~1 || true)}"; \
	if [ -z "$$against" ] || ! git cat-file -e "$$against:proto/buf.yaml" 2>/dev/null; then echo "proto-breaking: no earlier contract to compare with"; exit 0; fi; \
	echo "proto-breaking: comparing with $$against"; \
	old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; git archive "$$against" proto | tar -x -C "$$old"; \
	cd proto && ../$(BIN)/buf breaking --against "$$old/proto"

format: build ## Format all code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cargo fmt --manifest-path native/Cargo.toml --all
	cd proto && ../$(BIN)/buf format --write

generate: $(STAMPS)/requirements ## Generate the Python stubs from the protos.
	rm -f $(GENERATED)/*_pb2*.py*
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=proto --python_out=clients/python --grpc_python_out=clients/python \
		--mypy_out=clients/python --mypy_grpc_out=clients/python $(PROTOS)

generate-check: $(STAMPS)/requirements ## Fail where the generated stubs are stale.
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; mkdir -p "$$fresh/clients/python"; \
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=proto --python_out="$$fresh" --grpc_python_out="$$fresh" \
		--mypy_out="$$fresh" --mypy_grpc_out="$$fresh" $(PROTOS); \
	diff -r --exclude=__init__.py --exclude=__pycache__ "$$fresh/hubwire/v1" $(GENERATED) || { echo "generate-check: run make generate" >&2; exit 1; }

bench: build ## Run the benchmarks, and fail where a ratio fell by more than a third of what is recorded.
	$(BIN)/python -m pytest benchmarks --benchmark-json=$(VENV)/benchmark.json
	$(BIN)/python benchmarks/gate.py $(VENV)/benchmark.json || { echo "once more, since the machine may have been busy"; \
		$(BIN)/python -m pytest benchmarks --quiet --benchmark-json=$(VENV)/benchmark-again.json; \
		$(BIN)/python benchmarks/gate.py $(VENV)/benchmark.json $(VENV)/benchmark-again.json; }

profile: build ## Print where the time of a call goes, stage by stage (JSON=FILE writes it there too).
	$(BIN)/python -m benchmarks.budget $(if $(JSON),--json $(JSON))

bench-record: build ## Run the benchmarks three times, and record the lowest of their ratios.
	for run in 1 2 3; do $(BIN)/python -m pytest benchmarks --quiet --benchmark-json=$(VENV)/benchmark-$$run.json; done
	$(BIN)/python benchmarks/gate.py $(VENV)/benchmark-[123].json --record

# Counts instructions under valgrind, into .venv. It needs the runner of gungraun, in the version of the library, and not the built project.
KIND := $(VENV)/instructions-kind
COUNTED := $(VENV)/instructions.jsonl
GUNGRAUN := $(shell sed -n 's/^gungraun = "=\(.*\)"$$/\1/p' native/Cargo.toml)
RUNNER := $(STAMPS)/gungraun-runner-$(GUNGRAUN)
CARGO_BENCH := cargo bench --quiet --manifest-path native/Cargo.toml --package hubwire-core
define COUNT
	@command -v valgrind >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends valgrind >/dev/null \
		&& command -v valgrind >/dev/null; } \
		|| { echo "instructions: nothing can be counted without valgrind: install it first" >&2; exit 1; }
	rm -f $(KIND) $(COUNTED)
	$(CARGO_BENCH) --bench simd_level --config 'target."cfg(all())".runner = ["valgrind", "--quiet", "--tool=none"]' >$(KIND)
	PATH="$(abspath $(BIN)):$$PATH" $(CARGO_BENCH) --bench instructions -- --output-format=json >$(COUNTED)
endef

instructions: $(RUNNER) ## Count the instructions of the Rust core, and fail where a count moved by more than 5 % of what is recorded.
	$(COUNT)
	$(BIN)/python benchmarks/instructions.py $(COUNTED) --kind "$$(cat $(KIND))"

instructions-record: $(RUNNER) ## Count the instructions of the Rust core, and record them.
	$(COUNT)
	$(BIN)/python benchmarks/instructions.py $(COUNTED) --kind "$$(cat $(KIND))" --record

# Built without optimization, which takes half the time: the runner starts valgrind and reads what it wrote.
$(RUNNER): | $(BIN)/python
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root $(VENV) --version =$(GUNGRAUN) gungraun-runner
	@mkdir -p $(STAMPS) && touch $@

# SERVER_ARGS are flags of hubwire serve, for example SERVER_ARGS="--backend torch".
bench-load: build $(BIN)/ghz ## Measure in one run whether what must hold does (about 6 minutes).
	$(BIN)/python -m benchmarks.load.bench_load --server-args="$(SERVER_ARGS)"

bench-peers: build $(BIN)/ghz ## Measure Hubwire beside sentence-transformers, transformers, Infinity and ONNX Runtime (about 12 minutes).
	$(BIN)/python -m benchmarks.load.bench_peers --server-args="$(SERVER_ARGS)"

bench-growth: build $(BIN)/ghz ## Measure the cost of a text as callers, lengths, calls and streams grow; fail where one rises.
	$(BIN)/python -m benchmarks.load.bench_growth --server-args="$(SERVER_ARGS)"

bench-tasks: build ## Measure classification, entities and answers over gRPC against the pipelines of transformers (about 3 minutes).
	$(BIN)/python -m benchmarks.load.bench_tasks --server-args="$(SERVER_ARGS)"

soak: build ## Stream 20,000 texts through a real server.
	$(BIN)/python -m pytest tests/faults/test_soak.py --soak-texts 20000 --timeout 900

lock: ## Pin every dependency in requirements.lock.
	$(UV) pip compile pyproject.toml --group dev --extra demo --universal --python-version 3.11 --generate-hashes \
		--override .lock-overrides.txt --no-emit-package hubwire --no-header --quiet --output-file requirements.lock

clean: ## Remove what the other commands made.
	rm -rf $(VENV) native/target
	find server clients/python -name '*.so' -delete

help: ## List the commands.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | while IFS=$$'\t' read -r name text; do printf '%-16s %s\n' "$$name" "$$text"; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Hubwire needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV); else $(PYTHON) -m venv $(VENV) && $@ -m pip install --quiet uv; fi

# One block of the README calls grpcurl. Without Go its test is reported as not run.
$(BIN)/grpcurl: | $(BIN)/python
	@if command -v go >/dev/null; then GOBIN="$(abspath $(BIN))" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4; \
	else echo "grpcurl is not installed: there is no Go toolchain"; fi

# The load driver. Unlike a test, a benchmark without it says nothing, so that it fails without Go.
$(BIN)/ghz: | $(BIN)/python
	@command -v go >/dev/null || { echo "The load benchmarks drive the server with ghz, which go installs: install a Go toolchain first" >&2; exit 1; }
	GOBIN="$(abspath $(BIN))" go install github.com/bojand/ghz/cmd/ghz@v0.121.0

# The lock is complete, and to resolve it again would stumble over what it overrides (.lock-overrides.txt).
$(STAMPS)/requirements: requirements.lock | $(BIN)/python
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/project: $(STAMPS)/requirements pyproject.toml clients/python/pyproject.toml $(NATIVE)
	@command -v cargo >/dev/null || { echo "Hubwire builds its core with cargo: install a Rust toolchain first" >&2; exit 1; }
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e clients/python -e .
	@touch $@
