# make demo | make test | make lint ; PYTHON=python3.12 picks the interpreter of .venv, and CPU=1
# PyTorch's build for CPUs
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Python compiles what it imports, a quarter of what is installed; the rest takes half a minute.
INSTALL := install --no-compile
# Where PyTorch's CPU builds are: PyTorch's own index, another one, or a folder with the wheels.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO := work_dirs/demo
SHAPES := data/shapes

# Of the campaigns of `make stress`: how long, and which random choices.
MINUTES ?= 60
SEED ?= 0

.PHONY: help setup demo demo-segmentation test matrix stress exports lint clean cpu-torch
help:
	@echo "make setup              set up .venv with the versions of requirements.txt"
	@echo "make demo               set up .venv, train and evaluate a detector on generated shapes"
	@echo "make demo-segmentation  the same with a segmentor"
	@echo "make test               set up .venv, run the test suite"
	@echo "make matrix             the package with other versions (ENV=name: in one environment)"
	@echo "make stress             trainings that are killed, full disks, bad files (MINUTES=60)"
	@echo "make lint               ruff and mypy"
	@echo "make clean              remove .venv and the demo's files"
	@echo "PYTHON=python3.12 picks the interpreter; CPU=1 takes PyTorch's build for CPUs"

# opencv-python needs a desktop's libraries (libGL, libX11); the headless build is the same
# library without windows, and runs on a bare server.
.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.10-3.13: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up .venv: several minutes$(if $(filter 1,$(CPU)),,, 3 GB to download, most of it PyTorch)"
	$(PYTHON) -m venv .venv
	@$(if $(filter 1,$(CPU)),$(MAKE) --no-print-directory cpu-torch)
	$(PIP) $(INSTALL) -r requirements.txt
	$(PIP) uninstall --yes --quiet opencv-python
	$(PIP) $(INSTALL) --quiet --force-reinstall --no-deps \
	  "opencv-python-headless$(call pin,opencv-python)"
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# '==' and the tested version of a package.
pin = $(shell sed -n 's/^$(1)\(==.*\)/\1/p' requirements.txt)

# The versions of requirements.txt: what is installed already, that one does not replace.
cpu-torch:
	@$(PIP) $(INSTALL) --quiet --no-deps --retries 0 --timeout 20 \
	  $(if $(wildcard $(TORCH_INDEX)),--no-index --find-links,--index-url) $(TORCH_INDEX) \
	  torch$(call pin,torch)+cpu torchvision$(call pin,torchvision)+cpu 2>/dev/null || \
	  echo "No CPU build of torch$(call pin,torch) in $(TORCH_INDEX): taking the default build, 3 GB" \
	    "with CUDA. TORCH_INDEX=... names another index, or a folder with the wheels" >&2

setup: .venv/.ready

demo demo-segmentation: .venv/.ready
	@$(BIN)/python tools/make_shapes.py $(SHAPES)
	@$(BIN)/python tools/train.py $(CONFIG) --work-dir $(OUT) --overwrite
	@$(BIN)/python tools/predict.py $(CONFIG) $(OUT)/last.pth $(SHAPES)/val2017 --out $(OUT)/predictions
demo: CONFIG := configs/cascade_swin_nano_shapes.py
demo: OUT := $(DEMO)
demo-segmentation: CONFIG := configs/upernet_swin_nano_shapes.py
demo-segmentation: OUT := $(DEMO)-segmentation

test: .venv/.ready
	$(BIN)/python -m pytest -n 2

matrix: .venv/.ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/matrix.py $(ENV)

exports: .venv/.ready
	@$(BIN)/python tests/exports.py $(NAME)

stress: .venv/.ready
	@$(BIN)/python tests/stress/run.py --minutes $(MINUTES) --seed $(SEED)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv $(DEMO) $(DEMO)-segmentation $(SHAPES)
