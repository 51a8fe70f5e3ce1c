# make demo | make test | make lint ; PYTHON=python3.12 picks the interpreter of .venv
PYTHON ?= python3
BIN := .venv/bin
DEMO := work_dirs/demo
SHAPES := data/shapes

.PHONY: help demo demo-segmentation test matrix lint clean
help:
	@echo "make demo               set up .venv, train and evaluate a detector on generated shapes"
	@echo "make demo-segmentation  the same with a segmentor"
	@echo "make test               set up .venv, run the test suite"
	@echo "make matrix             the package with other versions (ENV=name: in one environment)"
	@echo "make lint               ruff and mypy"
	@echo "make clean              remove .venv and the demo's files"

# opencv-python needs a desktop's libraries (libGL, libX11); the headless build is the same
# library without windows, and runs on a bare server.
.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.10-3.13: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up .venv: several minutes, 3 GB to download, most of it PyTorch"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip uninstall --yes --quiet opencv-python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --force-reinstall --no-deps \
	  "opencv-python-headless==$$(sed -n 's/^opencv-python==//p' requirements.txt)"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	  --no-build-isolation --editable .
	@touch $@

demo demo-segmentation: .venv/.ready
	@$(BIN)/python tools/make_shapes.py $(SHAPES)
	@$(BIN)/python tools/train.py $(CONFIG) --work-dir $(OUT)
	@$(BIN)/python tools/predict.py $(CONFIG) $(OUT)/last.pth $(SHAPES)/val2017 --out $(OUT)/predictions
demo: CONFIG := configs/cascade_swin_nano_shapes.py
demo: OUT := $(DEMO)
demo-segmentation: CONFIG := configs/upernet_swin_nano_shapes.py
demo-segmentation: OUT := $(DEMO)-segmentation

test: .venv/.ready
	$(BIN)/python -m pytest -n 2

matrix: .venv/.ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/matrix.py $(ENV)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv $(DEMO) $(DEMO)-segmentation $(SHAPES)
