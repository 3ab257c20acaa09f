# Each target makes the virtual environment on first use. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test check format .venv

help:
	@echo "make demo    from the tiny base to a transparent clip: data, both trainings, generation, numbers (runs/demo.sh)"
	@echo "make test    lint, types, layers and every test"
	@echo "make check   lint, types and layers only"
	@echo "make format  reformat the sources"
	@echo "make .venv   the virtual environment alone"

demo: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" bash runs/demo.sh

test: check
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv: $(STAMP)

# Redone when the dependencies change; a folder that is no working environment (empty, interpreter gone) is made anew.
$(STAMP): pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
