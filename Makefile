# Every target sets itself up from nothing: the first one that runs creates .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# One thread per process: the matrices are small, and forked tests need a parent without threads.
export OMP_NUM_THREADS ?= 1
TESTS := $(BIN)/python -m pytest -n 2 --dist worksteal

# Runs the tests of faults, and writes what they counted into docs/reliability.md.
reliability: .venv/installed
	$(BIN)/python benchmarks/reliability.py

.PHONY: demo test check format reliability docs
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/mae-lite demo

# Builds the documentation site into build/site.
docs: .venv/installed
	$(BIN)/python -m website.build

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS) -m "not slow"

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS)

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
