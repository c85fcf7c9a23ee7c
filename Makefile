# make demo     a recogniser trained and scored on this machine
# make test     all checks and tests but those of test-k2; make lint, the checks only
# make test-k2  the tests that need real k2, in an environment of its own with Python 3.10
# make venv     the environment only; make espnet, the environments with ESPnet 202511 and 202611; make clean
#
# Needs Python 3.10 to 3.13 and nothing else: no root, no network beyond the package index.

SUPPORTED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
            $$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && exit; done; echo python3)
VENV ?= .venv
TORCH ?= torch==2.13.0
EXTRAS ?= nemo,espeak,plot,score,recipes,test,triton
JOBS ?= 2

ESPNET ?= .venv-espnet
ESPNET3 ?= .venv-espnet3
ESPNET_EXTRAS ?= espeak,plot,score,recipes,test

K2 ?= .venv-k2
# The version of Python that k2 has a wheel for. pyenv may have it, but not in PATH.
K2_PYTHON ?= $(shell python3.10 -c 0 2>/dev/null && echo python3.10 \
               || ls "$$(pyenv root 2>/dev/null)"/versions/3.10.*/bin/python3.10 2>/dev/null | tail -1)

BIN = $(abspath $(VENV))/bin
STAMP = $(VENV)/installed
DEMO = egs/espeak_commands/asr1

.PHONY: demo test test-k2 lint venv espnet clean test-$(ESPNET) test-$(ESPNET3)

demo: $(STAMP)
	$(DEMO)/run.sh --python $(BIN)/python --size tiny

test: lint espnet
	$(BIN)/pytest -n $(JOBS) --dist loadgroup --ignore tests/hosts/espnet
	$(MAKE) --jobs $(JOBS) --output-sync=target test-$(ESPNET) test-$(ESPNET3)

# The tests of a host share what is slow to make, so each suite is one process, and the suites run side by side.
test-$(ESPNET) test-$(ESPNET3): test-%: %/installed
	$*/bin/pytest tests/hosts/espnet

# Fails where k2 cannot be imported: no test here is skipped for want of k2.
test-k2: $(K2)/installed
	SIGMEL_K2=1 $(K2)/bin/pytest tests/decoding/k2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP)

espnet: $(ESPNET)/installed $(ESPNET3)/installed

$(STAMP): INSTALLS = $(EXTRAS)
$(ESPNET)/installed: INSTALLS = $(ESPNET_EXTRAS) espnet-202511
$(ESPNET3)/installed: INSTALLS = $(ESPNET_EXTRAS) espnet-202611
$(ESPNET)/installed $(ESPNET3)/installed: $(wildcard patches/*/*)
$(STAMP) $(ESPNET)/installed $(ESPNET3)/installed: setup.cfg pyproject.toml .ci/venv.py
	$(PYTHON) .ci/venv.py $(@D) '$(TORCH)' $(INSTALLS)
	touch $@

$(K2)/installed: .ci/k2_venv.py .ci/venv.py
	$(or $(K2_PYTHON),$(error k2 needs Python 3.10: make K2_PYTHON=/path/to/python3.10 test-k2)) .ci/k2_venv.py $(@D)
	touch $@

clean:
	rm -rf $(VENV) $(ESPNET) $(ESPNET3) $(K2) build dist plugin/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
