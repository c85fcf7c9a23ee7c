# make demo    a recogniser trained and scored on this machine
# make test    all checks and tests
# make venv    only the environment; make lint, make clean
#
# Needs Python 3.10 to 3.13 and nothing else: no root, no network beyond the package index.

SUPPORTED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
            $$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && exit; done; echo python3)
VENV ?= .venv
TORCH ?= torch==2.13.0
EXTRAS ?= nemo,espeak,plot,score,recipes,test
JOBS ?= 2

BIN = $(abspath $(VENV))/bin
STAMP = $(VENV)/installed
DEMO = egs/espeak_commands/asr1

.PHONY: demo test lint venv clean

demo: $(STAMP)
	$(DEMO)/run.sh --python $(BIN)/python --size tiny

test: lint
	$(BIN)/pytest -n $(JOBS) --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml .ci/venv.py
	$(PYTHON) .ci/venv.py $(VENV) '$(TORCH)' $(EXTRAS)
	touch $@

clean:
	rm -rf $(VENV) build dist plugin/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
