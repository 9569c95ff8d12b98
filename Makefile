# What can be done with a checkout of rlx; `make help` lists it. ARGS="..." adds arguments.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo smoke test test-gpu lint format types check wheel bench clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## install rlx and its pinned packages into .venv (PYTHON=python3.12 to choose another)

# Pins keep pip from fetching whatever torch is newest.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rlx needs Python 3.11 or newer; try make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## train, fine-tune, reinforce, merge and evaluate a small Countdown solver; ends with a report
	$(BIN)/rlx stage=study study=quickstart scale=cpu $(ARGS)

smoke: setup ## every stage for a few steps, into build/smoke
	rm -rf build/smoke
	$(BIN)/rlx stage=study study=quickstart scale=smoke runs_dir=build/smoke $(ARGS)
	$(BIN)/rlx stage=report stage.plan="$$(echo build/smoke/plans/*)"

test: setup ## all tests that need no GPU, by WORKERS=2 processes
	$(BIN)/python -m pytest -q -r fE -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not gpu" $(ARGS)

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -q -r fE -m gpu $(ARGS) || test $$? -eq 5 # 5: no test is marked gpu

lint: setup ## ruff
	$(BIN)/ruff check .

format: setup ## sort imports and format
	$(BIN)/ruff check --select I --fix --quiet .
	$(BIN)/ruff format .

types: setup ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint types test ## lint, types, test

wheel: setup ## build the wheel into dist/
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

bench: setup ## run the benchmarks of scripts/bench
	@for script in scripts/bench/[a-z]*.py; do \
		test -e "$$script" || { echo "scripts/bench has no benchmark"; break; }; \
		echo "$$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; \
	done

clean: ## remove what builds and tools leave behind; .venv and runs stay
	rm -rf build dist rlx.egg-info .pytest_cache .ruff_cache
	find rlx conf tests scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
