# Two commands: `make demo` runs the main job on embedded data, `make test` runs every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LEARN2LEARN := learn2learn==0.2.0
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

export NO_ALBUMENTATIONS_UPDATE := 1
export OMP_NUM_THREADS ?= 1

.PHONY: setup test demo lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "dilkit needs Python 3.11 to 3.13; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(MAKE) --no-print-directory learn2learn
	touch $@

# learn2learn's released archive ships C files that current Python rejects; its Cython sources still build.
.PHONY: learn2learn
learn2learn:
	@$(BIN)/python -c 'import importlib.metadata as m; m.version("learn2learn")' 2>/dev/null || { \
	  set -e; \
	  cc=$$($(BIN)/python -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])'); \
	  command -v "$$cc" >/dev/null || command -v cc >/dev/null || \
	    { echo "learn2learn cannot be built: no C compiler ($$cc) was found; install gcc or clang" >&2; exit 1; }; \
	  h=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h; \
	  test -f "$$h" || { echo "learn2learn cannot be built: $$h is missing; install Python's headers" >&2; exit 1; }; \
	  $(BIN)/python -m pip install --quiet --no-deps --config-settings=--build-option=build_ext $(LEARN2LEARN); \
	}

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
