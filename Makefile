# `make demo` and `make test` are all that a fresh clone needs: each makes .venv if it is missing.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin
# Processes that run tests side by side.
JOBS ?= 2
INSTALLED := $(VENV)/.installed
# What JetStream really imports (star_jax/sampler/jetstream/upstream.py).
JETSTREAM_NEEDS := tiktoken grpcio shortuuid prometheus-client

.PHONY: help install demo test test-all lint types check format clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## .venv with the tested versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "star_jax needs Python 3.11 or newer; set PYTHON=/path/to/it, found: $(PYTHON)"; exit 1; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
# JetStream without most of what it declares: seqio brings TensorFlow (3 GB) for two names in
# annotations. `pip check` says that seqio, coverage and others are absent, and is right.
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps google-jetstream
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(JETSTREAM_NEEDS)
	touch $@

demo: $(INSTALLED)  ## what this machine does with a tiny model, in words
	$(RUN)/python -m star_jax.train

test: $(INSTALLED)  ## all tests but the slow ones
	$(RUN)/python -m pytest -n $(JOBS) -m 'not slow'

test-all: $(INSTALLED)  ## every test
	$(RUN)/python -m pytest -n $(JOBS)

lint: $(INSTALLED)  ## ruff: rules and format
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(INSTALLED)  ## ty, and the count of its suppressions
	$(RUN)/ty check --python $(VENV)
	@echo "suppressions: $$(grep -rE 'ty: ignore|type: ignore' star_jax benchmarks | wc -l)"

check: lint types test  ## what a change has to pass

format: $(INSTALLED)  ## let ruff rewrite what it can
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
