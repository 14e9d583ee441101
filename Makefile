# Everything runs in .venv at the repository root; `make` alone lists the targets.
#   PYTHON   interpreter that .venv is made from (3.11 is the tested one)
#   WORKERS  processes that run the tests
#   ARGS     more arguments for pytest, for example ARGS="tests/paths -x"

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
EXT_STAMP := .venv/.ext
EXT_SOURCES := $(shell find cuda_ext -name build -prune -o -type f \( -name "*.cpp" -o -name "*.h" -o -name "*.cu" -o -name "*.cuh" -o -name "*.py" -o -name "*.toml" \) -print)
EXTRAS := sim,minari,dev

# One thread a process: the networks under test are small, and the workers share the cores.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup ext demo test check fmt test-fast test-sim test-slow test-gpu clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP)  ## create .venv with the tested releases; again when pyproject.toml or the pins change

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "genpolicy needs Python 3.11 or newer; try: make setup PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

$(STAMP): pyproject.toml .ci/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c .ci/constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

ext: $(EXT_STAMP)  ## build the compiled operators for this machine (GENPOLICY_CUDA=auto|0|1)

$(EXT_STAMP): $(EXT_SOURCES) $(STAMP)
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps --force-reinstall ./cuda_ext
	@touch $@

demo: setup  ## generate data, train, evaluate: a few minutes on a laptop
	$(BIN)/genpolicy demo

test: check ext  ## what CI runs: `make check`, every test that is not slow, sampling once more in torch
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow" --durations=15 $(ARGS)
	GENPOLICY_EXT=off $(BIN)/pytest -q -n $(WORKERS) --dist worksteal -m "not slow" tests/policies tests/evaluation

check: setup  ## formatting, lint, layer order, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

fmt: setup  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-fast: setup  ## tests without simulators
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow and not sim" $(ARGS)

test-sim: setup  ## only the tests that step a simulator
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "sim and not slow" $(ARGS)

test-slow: setup  ## only the slow tests: wheels, longer trainings
	$(BIN)/pytest -m slow $(ARGS)

test-gpu: setup  ## only the tests that need a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

clean:  ## remove caches and build products; .venv, runs and data stay
	rm -rf build dist cuda_ext/build cuda_ext/*.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find genpolicy tests experiments cuda_ext -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
