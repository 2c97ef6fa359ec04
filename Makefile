# `make help` lists what there is to do. Everything happens in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
BENCHES := $(wildcard bench/*.py)
# A process a core, as far as memory goes: each has torch, about 1 GB. ARGS=-n0 runs them in one.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup search test test-all lint bench constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: .venv/.installed ## make .venv with the project, its plugins and its tools

# The folder plugins/ is named too: its date changes when a plugin comes or goes.
.venv/.installed: pyproject.toml constraints.txt plugins $(PLUGINS:%=%/pyproject.toml)
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer" >&2; exit 1; }; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python >= 3.11 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make setup PYTHON=python3.12" >&2; exit 1; }; \
	  echo "Making .venv: several GB with PyTorch, a few minutes"; \
	  $(PYTHON) -m venv --clear .venv || { \
	    rm -rf .venv; echo "no virtual environment could be made (on Debian: apt-get install python3-venv)" >&2; exit 1; }; \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[dev,test]' $(PLUGINS:%=--editable ./%)
	@touch $@

search: setup ## run the quickstart study to its front
	@$(BIN)/routesearch search studies/quickstart.yaml

test: setup ## the tests that take seconds, of the project and of its plugins
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: setup ## all tests
	@$(PYTEST) $(ARGS)

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: setup ## measure what the speed claims rest on
	@for script in $(BENCHES); do echo "== $$script"; $(BIN)/python $$script; done

constraints: setup ## write constraints.txt anew from what .venv holds
	@{ sed '/^$$/q' constraints.txt; \
	   $(BIN)/python -m pip freeze --exclude-editable | grep -vE '^(cuda-|nvidia-|triton==)| @ '; } > .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt

clean: ## remove caches and builds; .venv and the studies' results stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . \( -name .venv -o -name .git -o -name .routesearch \) -prune -o \
	  \( -name __pycache__ -o -name '*.egg-info' \) -print0 | xargs -0 rm -rf
