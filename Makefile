# Each target sets up everything it needs in .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo quick test test-all serve lint bench soak fuzz gpu gpu-test gpu-bench

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes, once ..."
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it or call make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/overread demo

# Three speeds of tests. One thread each: the processes of the tests take all cores already.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

# No other programs, no node, no large models: while one works.
quick: $(READY)
	$(PYTEST) -n 2 -m "not node and not peer and not engine and not gpu and not slow"

# More processes than most machines have cores, since tests of whole nodes wait.
test: $(READY)
	tests/install-peers
	$(PYTEST) -n 6 -m "not slow"

# For the night: everything, on the disk instead of in memory, with the coverage that there is now; long fuzz; a soak.
COVERED ?= 93
test-all: $(READY)
	tests/install-peers
	PYTEST_DEBUG_TEMPROOT=$${TMPDIR:-/tmp} $(PYTEST) -n 6 --cov --cov-branch --cov-fail-under=$(COVERED)
	$(MAKE) fuzz
	$(MAKE) soak MINUTES=5

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
	$(BIN)/python -m benchmarks.reports
	$(BIN)/python -m benchmarks.delivery
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.throughput --urgent
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.year
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.volumes
	$(BIN)/python -m benchmarks.cuda

# Beside a PyTorch for the machine's CUDA device, which stays as it is: make gpu PYTHON=python3
GPU_VENV := .venv-gpu
GPU_PYTHON := $(GPU_VENV)/bin/python
GPU_READY := $(GPU_VENV)/.ready
$(GPU_READY): pyproject.toml constraints.txt tests/gpu_environment.py
	$(PYTHON) tests/gpu_environment.py $(GPU_VENV)
	@touch $@

gpu: gpu-test gpu-bench

# Other versions of libraries warn of other things, which is no fault of a test here.
gpu-test: $(GPU_READY)
	$(GPU_PYTHON) -m pytest -W default tests/inference/test_cuda.py

gpu-bench: $(GPU_READY)
	$(GPU_PYTHON) -m benchmarks.cuda
	$(GPU_PYTHON) -m benchmarks.throughput --device cuda
