# make demo    install, then train a small model end to end and show what it does
# make test    install, then everything that must pass before a commit

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test lint unit slow chaos fuzz bench docs constraints audit sbom clean

# The first interpreter that is new enough; `make PYTHON=/path/to/python demo` picks another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)

BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev
PIP := $(BIN)/pip install --disable-pip-version-check -c deploy/constraints.txt
# One thread per process: two workers on two cores are slower with more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest

help:  ## what there is to make
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Two installations: what runs the project, and on top of it what checks it. A stamp is written last, so an
# installation that was cut short is taken up again.
$(INSTALLED): pyproject.toml deploy/constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "seqae needs Python 3.11 or newer; this machine has: $$(python3 --version 2>&1)." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11 demo" >&2; exit 1; fi
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## train a small model end to end, on this machine, and show what it does
	$(BIN)/seqae demo

test: lint $(INSTALLED_DEV)  ## lint, types, import contracts, unit, integration and end-to-end tests, with branch coverage
	$(PYTEST) -n 2 --dist loadscope --no-loadscope-reorder --cov --cov-report=term:skip-covered

lint: $(INSTALLED_DEV)  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(INSTALLED_DEV)  ## the fast tests only
	$(PYTEST) tests/unit

slow: $(INSTALLED_DEV)  ## the tests that take minutes
	$(PYTEST) -m slow

chaos: $(INSTALLED_DEV)  ## the tests that kill real processes for minutes
	$(PYTEST) -m chaos -s

fuzz: $(INSTALLED_DEV)  ## 10,000 requests that nobody would send, against a server of its own
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.main

bench: $(INSTALLED_DEV)  ## one table of speeds; writes bench.json
	$(BIN)/python -m tests.benchmarks.main

docs: $(INSTALLED_DEV)  ## write the pages that are made from the code
	$(BIN)/python -m tests.settings_page
	$(BIN)/python -m tests.cli_page

constraints: $(INSTALLED_DEV)  ## write the versions that are installed now into deploy/constraints.txt
	@{ grep '^#' deploy/constraints.txt; $(BIN)/pip freeze --all --exclude-editable | grep -E '^[A-Za-z0-9_.-]+==' | grep -v '^pip=='; } > .venv/constraints
	@mv .venv/constraints deploy/constraints.txt

audit: $(INSTALLED_DEV)  ## look up known holes of what is installed; fails for a hole alone, and says where it could not look
	$(BIN)/python -m tests.dependency_audit

sbom: $(INSTALLED_DEV)  ## write sbom.json: what is installed, as CycloneDX, checked against its schema
	$(BIN)/cyclonedx-py environment --validate --output-reproducible --pyproject pyproject.toml -o sbom.json $(BIN)/python

clean:  ## remove what was made, except .venv and the data of a stack (.seqae)
	rm -rf build dist demo bench.json sbom.json *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find seqae jobs service tests -name __pycache__ -type d -prune -exec rm -rf {} +
