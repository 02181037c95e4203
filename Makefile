# Each target sets up everything it needs in .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test serve lint bench soak fuzz

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes, once ..."
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it or call make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/overread demo

# One thread each: the processes of the tests take all cores already.
test: $(READY)
	tests/install-peers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

serve: $(READY)
	$(BIN)/overread serve

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A node under load with kills, outages and bad objects: make soak MINUTES=20
MINUTES ?= 20
soak: $(READY)
	tests/install-peers
	$(BIN)/python -m tests.system.soak --minutes $(MINUTES)

# Mutated files for longer than the tests do: make fuzz SECONDS=600
SECONDS ?= 600
fuzz: $(READY)
	FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest tests/inference/test_fuzz.py

bench: $(READY)
	tests/install-peers
	$(BIN)/python -m benchmarks.ingest
	$(BIN)/python -m benchmarks.durability
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.year
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.volumes
	$(BIN)/python -m benchmarks.cuda
