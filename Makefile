PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint benchmark clean

## Trains a small network on scikit-learn's digits, quantizes it to 4 bits and runs the file.
demo: $(STAMP)
	$(BIN)/tfeptq demo

## Runs all tests.
test: $(STAMP)
	$(BIN)/python -m pytest

## Lint, formatting and types.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## The tables of the README, on the models of TFEPTQ_ASSETS.
benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.accuracy

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,microcontroller,ethos-u,report]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build ./*.egg-info
