# make demo and make test each set themselves up: Python >= 3.11 with venv, a C compiler and make are all they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Unit tests run in this many processes, a file of tests in one of them; each process computes with one thread.
WORKERS ?= 2
PYTEST  := $(BIN)/python -m pytest
# Compiled modules and tests are kept: compiling them takes every process a few seconds.
export PYTHONDONTWRITEBYTECODE =
SPREAD  := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Packages whose unit tests take half a minute together; `make coverage COVERED="laws planning"` for others.
COVERED ?= data planning results storage study submit sweep track

.PHONY: demo test unit coverage lint format docs install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing vqscale with its pinned dependencies (constraints.txt) into $(VENV); a few minutes the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/vqscale run experiments/quickstart/study.yaml

# One Ray cluster takes the cores that two test processes would, so integration tests follow in a process of their own.
test: $(STAMP)
	$(PYTEST) $(SPREAD) tests/unit $(FLAGS)
	$(PYTEST) tests/integration tests/gpu $(FLAGS)

unit: $(STAMP)
	$(PYTEST) $(SPREAD) tests/unit $(FLAGS)

# Counting lines makes tests 20 to 70 % slower, so it is no part of `make test` and covers the packages of COVERED only.
coverage: $(STAMP)
	@echo "Line coverage by their own unit tests of: $(COVERED). Other packages are not measured."
	$(PYTEST) -q $(SPREAD) $(COVERED:%=tests/unit/%) $(COVERED:%=--cov=vqscale.%) --cov-report=term:skip-covered $(FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site
