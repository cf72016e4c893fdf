# Two commands for a fresh clone: `make demo` and `make test`. Each sets up .venv by itself; needed are Python 3.11 to 3.13 with pip, git, make.
#   make setup   the environment of requirements.lock in .venv, nothing else on the machine is touched
#   make demo    draw videos, train, evaluate, register, label; everything under reelscribe-demo/ (ARGS="--engine ray" is passed on)
#   make test    all tests, the fast ones first, in two processes
#   make check   format, lint, types, and the tests of the architecture
#   make lock    resolve pyproject.toml anew into requirements.lock (UPGRADE=1 takes the newest of everything)
#   make clean   remove what the targets above made, .venv included
# Another Python: make PYTHON=python3.12 setup

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.synced
ARGS ?=

# uv from the machine, else its own copy in .uv/: `pip install --target` works without python3-venv and where the system's Python refuses
# installs (PEP 668).
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# uv does not read pip's settings; a mirror that pip was told of serves both.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: setup demo test check lock clean
.DELETE_ON_ERROR:

setup: $(STAMP)

# Made again only where the inputs changed. The hashes of every file are checked, and all is compiled, which halves the start of every process
# where Python may not write; our own package is then linked in, built by the hatchling of the lock.
$(STAMP): pyproject.toml requirements.lock | $(UV)
	@$(VENV)/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
		|| $(UV) venv --clear --python-preference system --python '$(if $(filter-out python3,$(PYTHON)),$(PYTHON),>=3.11,<3.14)' $(VENV)
	$(UV) pip sync --compile-bytecode --python $(VENV)/bin/python --require-hashes requirements.lock
	$(UV) pip install --python $(VENV)/bin/python --no-deps --no-build-isolation --quiet --editable .
	@touch $@

.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv 'uv>=0.9,<1'

demo: setup
	$(VENV)/bin/reelscribe demo $(ARGS)

# The longest of the slow tests are alone in their files, which would come last, one process at work and the other idle.
test: setup
	$(VENV)/bin/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS) || test $$? -eq 5  # 5: nothing selected, as when ARGS names one file
	$(VENV)/bin/python -m pytest -m slow --verbose -n 2 --dist loadfile --no-loadscope-reorder $(ARGS) || test $$? -eq 5

check: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest --quiet tests/test_architecture.py

lock: | $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url $(if $(UPGRADE),--upgrade) \
		--python-version 3.11 --group dev --all-extras --output-file requirements.lock pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url $(if $(UPGRADE),--upgrade) \
		--python-version 3.11 --constraint requirements.lock --output-file docker/tracking.lock docker/tracking.in

clean:
	rm -rf $(VENV) .uv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis reelscribe-demo
