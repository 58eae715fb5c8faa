PYTHON ?= python3
venv := .venv
run := $(venv)/bin/python
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What is compiled for one PyTorch does not fit another's.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(venv)/torch_extensions

.PHONY: help demo test mutants lint colossalai clean

help:
	@echo 'make demo    trains the three stages on the embedded demo and says where the run card is'
	@echo 'make test    runs the tests'
	@echo 'make mutants puts known mistakes into a copy of the code, and demands that tests fail: up to an hour'
	@echo 'make lint    checks style and types'
	@echo 'make colossalai  adds ColossalAI, for strategy=colossalai_...'
	@echo 'make clean   removes the virtual environment, builds and caches; outputs/ stays'
	@echo
	@echo 'The first of them installs everything into $(venv)/. Another Python: make demo PYTHON=python3.12'

demo: $(venv)/installed
	@$(run) train.py

# A file of tests has one of the processes to itself, since its tests share what they have trained.
test: $(venv)/installed-dev
	@$(run) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

mutants: $(venv)/installed-dev
	@$(run) tests/mutate.py

lint: $(venv)/installed-dev
	@$(run) -m ruff check
	@$(run) -m ruff format --check
	@$(run) -m mypy

# Its own dependencies would bring back an old PyTorch.
colossalai: $(venv)/installed requirements/colossalai.txt
	@$(run) -m pip install --quiet --no-deps --requirement requirements/colossalai.txt

# Either stamp is older than what it was made from, or there is nothing to do.
$(venv)/installed: pyproject.toml constraints.txt | $(venv)/bin/pip
	@echo 'Installing into $(venv)/: once, and it takes minutes, since torch is large.'
	@$(run) -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(venv)/installed-dev: pyproject.toml constraints.txt requirements/colossalai.txt | $(venv)/bin/pip
	@echo 'Installing into $(venv)/, with what tests need: once, and it takes minutes, since torch is large.'
	@DS_BUILD_OPS=0 $(run) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(venv)/installed
	@$(MAKE) colossalai
	@echo 'Compiling what DeepSpeed computes on a CPU: once, two or three minutes.'
	@$(run) -m lightning_rlhf.strategies.deepspeed.ops
	@touch $@ $(venv)/installed

# Not bin/python: that is there even where venv stopped half-way for want of ensurepip.
$(venv)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'error: $(PYTHON) is not Python 3.11 or newer; name one that is, such as: make demo PYTHON=python3.12' >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(venv)

clean:
	@rm -rf $(venv) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
