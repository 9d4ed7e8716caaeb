# Each target sets up what it needs; `make demo` and `make test` work on a machine with Python 3.11+ alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo native test reference kernels campaign lint doctest docs links package bench figures clean

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[dev,bench]'
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) --editable '.[dev,docs]'
	touch $@

# Both installs compile the native twins where a compiler is; this does after a change of their sources.
NATIVE := $(BIN)/python -m mi_metrics.kernels.build --if-possible

native: $(VENV)/.dev
	$(NATIVE)

demo: $(VENV)/.demo
	$(NATIVE)
	$(BIN)/python -m mi_metrics.examples.demo

test: native
	$(BIN)/pytest -n auto --maxprocesses 4 -m "not campaign"

# What the native twins serve, by their references in plain PyTorch.
reference: $(VENV)/.dev
	MI_METRICS_KERNELS=0 $(BIN)/pytest -n auto --maxprocesses 4 -m "not campaign and not slow" \
		tests/functional tests/states tests/contract tests/test_losses*.py tests/test_gaussian_losses*.py

# Kernels for GPUs under Triton's interpreter, and compiled for cards that need not be there.
# PyTorch for GPUs brings a Triton of its own, the only one that it works with, so that constraints.txt can't name one;
# this one takes 640 MB, in a folder apart.
TRITON := triton==3.9.0

$(VENV)/.triton: $(VENV)/.dev Makefile
	rm -rf $(VENV)/triton
	$(PIP) --no-deps --target $(VENV)/triton $(TRITON)
	touch $@

kernels: $(VENV)/.triton
	PYTHONPATH=$(VENV)/triton $(BIN)/python -c "import triton"
	PYTHONPATH=$(VENV)/triton $(BIN)/pytest -n auto --maxprocesses 4 tests/kernels/test_gpu.py

# What takes too long for every change: statistics over hundreds of draws, long fuzz.
campaign: $(VENV)/.dev
	$(BIN)/pytest -n auto --maxprocesses 4 -m campaign

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

doctest: $(VENV)/.dev
	$(BIN)/pytest --doctest-modules mi_metrics --ignore-glob='mi_metrics/kernels/triton_*' --doctest-glob='*.md' README.md docs/*.md

# The site, in docs/_build/html; a warning is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build/html

# Whether the addresses that the site links answer; needs the network.
links: $(VENV)/.docs
	$(BIN)/sphinx-build -b linkcheck docs docs/_build/links

# The wheel in an environment of its own: without extras, then with each.
package: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python tests/install.py dist/*.whl

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

# What the README, the site and the notebooks show.
figures: $(VENV)/.dev
	$(BIN)/python -m benchmarks.accuracy --write
	rm -rf runs/study
	$(BIN)/mi-metrics study --estimators bins kde knn --out runs/study
	$(BIN)/mi-metrics fit --config registration --trainer.logger false --trainer.default_root_dir runs/registration_figure
	$(BIN)/python -m benchmarks.images
	$(BIN)/python -m benchmarks.notebooks
	$(BIN)/ruff format notebooks

clean:
	rm -rf $(VENV) runs dist build docs/_build docs/_made .pytest_cache .mypy_cache .ruff_cache .hypothesis
