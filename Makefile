PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# One test process a core, four at most; the tests of a module stay together, for what they share.
WORKERS ?= --numprocesses auto --maxprocesses 4 --dist loadfile
STAMP := $(VENV)/.installed
# Extras of setup.cfg that tests need in the main environment.
TESTED := test,microcontroller,ethos-u,report,distributed
EVERY := $(TESTED),metadata,docs
# Packages that cannot live beside the others: tflite-runtime needs numpy < 2, and
# tensorflow-model-optimization an old absl and Keras 2. Tests call them in these environments.
OLD_RUNTIME := $(VENV)-tflite-runtime
TFMOT := $(VENV)-tfmot
# The main environment with some of them.
define main_environment
$(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --upgrade pip
$(BIN)/python -m pip install --quiet --editable '.[$(1)]'
endef
# The requirements of one extra of setup.cfg, without those of the project itself.
extra = $(shell $(PYTHON) -c "import configparser as c; s = c.ConfigParser(); s.read('setup.cfg'); \
  print(*(repr(line.strip()) for line in s['options.extras_require']['$(1)'].split(chr(10)) if line.strip()))")

.PHONY: demo test test-all environments lint docs benchmark clean

## Trains a small network on scikit-learn's digits, quantizes it to 4 bits and runs the file.
demo: $(STAMP)
	$(BIN)/tfeptq demo

## Runs all tests.
test: $(STAMP)
	$(BIN)/python -m pytest $(WORKERS)

## Runs all tests with every package that this project names, so that none of them is skipped.
test-all: export TFLITE_RUNTIME_PYTHON = $(abspath $(OLD_RUNTIME)/bin/python)
test-all: export TFMOT_PYTHON = $(abspath $(TFMOT)/bin/python)
test-all: $(VENV)/.metadata $(OLD_RUNTIME)/.installed $(TFMOT)/.installed
	$(BIN)/python -m pytest $(WORKERS) --no-missing-packages

## Every environment that the other targets need; with --jobs 2 side by side.
environments: $(VENV)/.everything $(OLD_RUNTIME)/.installed $(TFMOT)/.installed

## Lint, formatting and types.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## The documentation, as a site in build/site.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

## The tables of the documentation, on the models of TFEPTQ_ASSETS.
benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.accuracy

$(STAMP): setup.cfg pyproject.toml
	$(call main_environment,$(TESTED))
	touch $(STAMP)

$(VENV)/.metadata: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[metadata]'
	touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# One installation instead of three.
$(VENV)/.everything: setup.cfg pyproject.toml
	$(call main_environment,$(EVERY))
	touch $(STAMP)
	touch $(VENV)/.metadata $(VENV)/.docs $@

$(OLD_RUNTIME)/.installed: setup.cfg
	$(PYTHON) -m venv $(OLD_RUNTIME)
	$(OLD_RUNTIME)/bin/python -m pip install --quiet $(call extra,tflite-runtime)
	touch $@

$(TFMOT)/.installed: setup.cfg
	$(PYTHON) -m venv $(TFMOT)
	$(TFMOT)/bin/python -m pip install --quiet 'tensorflow >=2.20,<2.22' $(call extra,tfmot)
	touch $@

clean:
	rm -rf $(VENV) $(OLD_RUNTIME) $(TFMOT) .pytest_cache .mypy_cache .ruff_cache .hypothesis build ./*.egg-info
