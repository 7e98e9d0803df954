# Everything lives in .venv; the plain commands are in README.md.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PLUGIN := tests/plugins/anybind-example

.PHONY: setup demo test lint types format nano clean

setup: .venv/packages.stamp .venv/weights.stamp

# torch comes with its own dependencies (a CUDA build has more of them); the rest is the exact list.
.venv/packages.stamp: constraints.txt pyproject.toml $(PLUGIN)/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --constraint constraints.txt setuptools torch
	$(PIP) --no-deps --no-build-isolation --requirement constraints.txt
	$(PIP) --no-deps --no-build-isolation --editable . --editable $(PLUGIN)
	touch $@

.venv/weights.stamp: .venv/packages.stamp anybind/bundles/nano/bundle.json
	$(BIN)/anybind doctor --fetch
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: setup lint
	ANYBIND_OFFLINE=1 $(BIN)/python -m pytest

lint: .venv/packages.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/typing_tree.py
	cd .typing && ../$(BIN)/lint-imports --config ../pyproject.toml --no-logo --no-cache

# pyright fetches a Node.js of its own where there is none, so it is not part of `test`.
types: .venv/packages.stamp
	$(PIP) pyright==1.1.414
	$(BIN)/python scripts/typing_tree.py
	$(BIN)/pyright

format: .venv/packages.stamp
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Every trained part of nano again, from declared sources; goes on where it was stopped.
WORK ?= out/nano
nano: setup
	$(BIN)/python scripts/nano.py --work $(WORK)

clean:
	rm -rf .venv .typing .pytest_cache .ruff_cache .hypothesis build dist *.egg-info out
