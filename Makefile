# Each target sets up everything it needs in .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test serve lint bench

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes, once ..."
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it or call make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/overread demo

test: $(READY)
	tests/install-peers
	$(BIN)/python -m pytest

serve: $(READY)
	$(BIN)/overread serve

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	tests/install-peers
	$(BIN)/python -m benchmarks.ingest
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.volumes
