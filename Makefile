# Two commands matter: `make demo` and `make test`. Both set up their own virtual environment first.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A file of tests stays in one process, with what its tests share; more processes than four would want more memory than time.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile
# Sums in torch depend on the number of threads to the last bit, and OpenMP collapses when processes share cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo up test test-all lint bench lock clean

demo: $(READY)
	$(BIN)/ft demo

up: $(READY)
	$(BIN)/ft up

test: $(READY) lint
	$(PYTEST)

test-all: $(READY) lint
	$(PYTEST) -m ''

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m bench.orchestration
	$(BIN)/python -m bench.banking77

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

# Resolve again after a change of pyproject.toml; the local part of a version (+cpu) is this machine's, not the project's.
lock:
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet ".[train,serve,gpu,k8s,aws,ray,dev]"
	{ sed -n '/^#/p' requirements.lock; .lock-venv/bin/python -m pip freeze --exclude ftplatform --exclude-editable \
	  | grep -v '^nvidia-' | grep -v '^triton==' | sed -E 's/\+[a-z0-9.]+$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .lock-venv build ftplatform.egg-info

clean:
	rm -rf $(VENV) .ftplatform
