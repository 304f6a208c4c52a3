# Two environments under .venv: `bringup` alone (make demo), and with the developers' tools (make test).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The release that CI tests. Where no CPU build of it is on the index, set TORCH="torch --index-url URL".
TORCH ?= torch==2.13.0
JOBS ?= 2

UNREACHABLE := echo "pip could not install what is needed (its own words are above). Check the network, the proxy (HTTPS_PROXY), free disk space and the package index ('$(BIN)/python -m pip config list'), then run the same command again." >&2; exit 1

.PHONY: demo test test-slow lint types bench clean
.DEFAULT_GOAL := test

demo: $(VENV)/.bringup
	$(BIN)/bringup up prostate-ssl --demo

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(JOBS) --dist worksteal

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/scan.py $(VENV)
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/data.py --device cpu

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Install one and run: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, install python3-venv; elsewhere, a Python with ensurepip." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" || { $(UNREACHABLE); }
	touch $@

$(VENV)/.bringup: $(VENV)/.made packages/bringup/pyproject.toml
	@$(BIN)/python -m pip install --quiet -e packages/bringup || { $(UNREACHABLE); }
	touch $@

$(VENV)/.dev: $(VENV)/.bringup pyproject.toml packages/portable-kernels/pyproject.toml packages/prostate-ssl/pyproject.toml
	@$(BIN)/python -m pip install --quiet $(TORCH) --group dev -e packages/bringup -e "packages/portable-kernels[nvrtc]" -e "packages/prostate-ssl[slurm,onnx]" || { $(UNREACHABLE); }
	touch $@
