SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GENERATED := build/generated
# Quotes around the tree are the caller's business: make run TREE=/usr/lib/python3
TREE ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything, at the locked versions

.PHONY: run
run: $(STAMP) ## Take a census of a source tree with two agents (TREE=path)
	@$(BIN)/python examples/census.py $(if $(TREE),"$(TREE)")

.PHONY: test
test: $(STAMP) ## Run every test (ARGS="-k name" to choose)
	@SIM_SEEDS=$(or $(SIM_SEEDS),2000) $(BIN)/python -m pytest -q -n 3 --dist worksteal --ignore=tests/interop $(ARGS)

.PHONY: lint
lint: $(STAMP) ## Check style, format and who imports whom
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/lint-imports --no-logo > /dev/null || $(BIN)/lint-imports --no-logo

.PHONY: type
type: $(STAMP) ## Check types, strictly
	@$(BIN)/mypy --no-error-summary

PROTOC := $(BIN)/python -m grpc_tools.protoc -I protos --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc

# Generate the stubs under $(1).
define generate_stubs
	@$(PROTOC) --python_out=$(1) --mypy_out=quiet:$(1) protos/outrider/v1/*.proto
	@$(PROTOC) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) protos/outrider/v1/*_service.proto
endef

.PHONY: proto
proto: $(STAMP) ## Generate the stubs in outrider/v1 from protos/
	$(call generate_stubs,.)
	@$(BIN)/python protos/record_numbers.py

.PHONY: docs
docs: $(STAMP) ## Generate docs/settings.md and docs/state-machines.md from the code
	@$(BIN)/python docs/generate_settings.py docs/settings.md
	@$(BIN)/python docs/generate_state_machines.py docs/state-machines.md

.PHONY: verify
verify: $(STAMP) ## Check that what is generated is what is committed
	@rm -rf $(GENERATED) && mkdir -p $(GENERATED)
	$(call generate_stubs,$(GENERATED))
	@touch $(GENERATED)/outrider/v1/__init__.py
	@diff -ru --exclude=__pycache__ outrider/v1 $(GENERATED)/outrider/v1 || { echo "run: make proto"; exit 1; }
	@$(BIN)/python protos/record_numbers.py --check $(GENERATED)/numbers.txt
	@diff -u protos/numbers.txt $(GENERATED)/numbers.txt || { echo "run: make proto"; exit 1; }
	@$(BIN)/python docs/generate_settings.py $(GENERATED)/settings.md
	@diff -u docs/settings.md $(GENERATED)/settings.md || { echo "run: make docs"; exit 1; }
	@$(BIN)/python docs/generate_state_machines.py $(GENERATED)/state-machines.md
	@diff -u docs/state-machines.md $(GENERATED)/state-machines.md || { echo "run: make docs"; exit 1; }

.PHONY: coverage
coverage: $(STAMP) ## Show that the pure tests of the decision core take every branch of it
	@SIM_SEEDS=25 $(BIN)/python -m coverage run --branch --source=outrider_coordinator.core -m pytest -q -p no:xdist \
	  $(wildcard tests/unit tests/property tests/transcripts tests/sim) $(ARGS)
	@$(BIN)/python -m coverage report --skip-covered --show-missing --precision=2 --fail-under=100

.PHONY: mutate
mutate: $(STAMP) ## Put small faults into the decision core and see whether tests notice (ARGS="trust queue", ARGS=--again)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/mutation.txt
	@cd tests && ../$(BIN)/python -m mutation.mutate_core $(ARGS)

.PHONY: sim
sim: $(STAMP) ## Simulate whole systems under faults (SEEDS=1000 FIRST=0)
	@cd tests && ../$(BIN)/python -m sim.campaign $(or $(SEEDS),1000) $(or $(FIRST),0)

.PHONY: planted
planted: $(STAMP) ## Show after how many seeds the simulator finds each planted bug (SEEDS=1000 at most)
	@cd tests && ../$(BIN)/python -m sim.planted $(or $(SEEDS),1000)

.PHONY: fuzz
fuzz: $(STAMP) ## Send requests that nobody would send to every method of a coordinator (INPUTS=100000 FUZZ_SEED=7)
	@FUZZ_INPUTS=$(or $(INPUTS),100000) $(BIN)/python -m pytest -q --timeout 7200 tests/rpc/test_hostile_input.py $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Measure throughput and latency beside the bare pipeline
	@$(BIN)/python benchmarks/throughput.py $(ARGS)

.PHONY: bench-runs
bench-runs: $(STAMP) ## Measure the longest step of the decisions under runs of 10,000 tasks
	@$(BIN)/python benchmarks/runs.py $(ARGS)

.PHONY: bench-steps
bench-steps: $(STAMP) ## Measure the longest step of the decisions when much happens at once
	@$(BIN)/python benchmarks/steps.py $(ARGS)

.PHONY: interop
interop: $(STAMP) ## Drive a coordinator from Node, by reflection and by the protos
	@$(BIN)/python -m pytest -q tests/interop $(ARGS)

.PHONY: lock
lock: $(STAMP) ## Lock the dependencies again after a change (ARGS=--upgrade for newer ones)
	@for extra in base coordinator dev mutation; do \
	  case $$extra in base) options=;; coordinator) options="--extra coordinator";; \
	    dev) options="--extra coordinator --group dev";; mutation) options="--extra coordinator --group dev --group mutation";; esac; \
	  $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate $(ARGS) \
	    --universal --python-version 3.11 $$options pyproject.toml --output-file requirements/$$extra.txt || exit 1; \
	done

.PHONY: clean
clean: ## Remove what was built and cached, not .venv
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage* tests/interop/node_modules
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
