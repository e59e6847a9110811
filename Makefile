# Everything that a fresh machine needs is set up by the target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: venv demo demo-parallel test test-slow test-gpu test-vbench test-postgres test-browser check format bench measures paper models train compare clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: venv
	$(BIN)/pabtune demo --out out/demo

demo-parallel: venv
	$(BIN)/pabtune demo-parallel

# Small models gain nothing from threads: two processes with one thread each, on two cores.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test-slow: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m slow

test-gpu: venv
	$(BIN)/python -m pytest -m "gpu or multi_gpu" -rs

# Installs VBench from PyPI into out/vbench: 2 GB, minutes; later runs use what is there.
test-vbench: venv
	$(BIN)/python -m pytest -m vbench -rs

# The driver from PyPI; the server is the machine's own, or Debian's, which root may install.
test-postgres: venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,postgres]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m postgres -rs

# The driver from PyPI; Chromium is the machine's own.
test-browser: venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser]'
	$(BIN)/python -m pytest -m browser -rs

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	$(BIN)/python benchmarks/overhead.py --out benchmarks/results/overhead.json
	$(BIN)/python benchmarks/engine.py --out benchmarks/results/engine.json

measures: venv
	$(BIN)/python benchmarks/measures.py --out out/measures

# Every method on the embedded model, on captions and seeds that nothing was tuned on; goes on where it was stopped. A prompt in
# a call, so that methods which decide in a run decide for each. Takes long; times need a machine of its own.
compare: venv
	$(BIN)/pabtune compare shapes --front policies/shapes-30steps-front --batch-size 1 --out out/compare

paper: venv
	$(BIN)/python benchmarks/paper.py --docs docs/paper.md
	$(BIN)/python benchmarks/scaling.py --out benchmarks/results/scaling.json

models: venv
	$(BIN)/python benchmarks/models_table.py

train: venv
	$(BIN)/python benchmarks/train_shapes.py --out runs/shapes

clean:
	rm -rf $(VENV) out runs build dist *.egg-info
