# Every target works first on a bare machine: each depends on the environment, which is made once.
# `make help` lists the targets; the text after ## is their line.

PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
STAMP    := $(VENV)/.ready
JOBS     ?= 2

SPLIT    ?=
BASE_DIR ?= .
OUT      ?=
GPUS     ?=
ARGS     ?=
MODEL    ?= wnet
INPUT    ?=
METHOD   ?= wnet
CKPT     ?=
DATA     ?=

TRAIN = $(if $(SPLIT),--data_file $(SPLIT) --base_dir $(BASE_DIR)) $(if $(GPUS),--gpus $(GPUS)) $(ARGS)

DAVIS_OUT    := $(or $(OUT),runs/davis-sample)
DAVIS_SAMPLE := blackswan bmx-trees car-roundabout car-shadow dog

.DEFAULT_GOAL := help
.PHONY: help setup test test-fast coverage lint format bench report clean davis-sample segment compare docs
.PHONY: train-ast train-redo train-maskdistill train-transformer-seg train-stflow

help: ## Show this help
	@echo "usage: make TARGET [VARIABLE=value ...]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "variables:"
	@echo "  SPLIT=      data split prefix, NAME for NAME_train.csv and NAME_val.csv (default: embedded data)"
	@echo "  BASE_DIR=   folder that the paths in the split are relative to (default: .)"
	@echo "  OUT=        run directory (default: runs/<target>)"
	@echo "  GPUS=       number of GPUs, 0 = CPU, -1 = all (default: what is there)"
	@echo "  ARGS=       further options of the command, e.g. ARGS='--max_epochs 20 --logger csv,wandb'"
	@echo "  MODEL=      model of train-transformer-seg: wnet, segmenter or dino (default: wnet)"
	@echo "  INPUT=      what segment segments: a video, a folder of pictures, a picture or a .csv split"
	@echo "  METHOD=     by which method: ast, dino, maskdistill, redo, segmenter, stflow or wnet (default: wnet)"
	@echo "  CKPT=       trained run or checkpoint; without it ast, stflow and wnet train on the input itself"
	@echo "  JOBS=       test processes (default: 2)"

setup: $(STAMP) ## Make .venv with the pinned versions (once)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; use make PYTHON=python3.11 ...")'
	@echo "making $(VENV): about 7 GB of packages, a few minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[export,dev]'
	@touch $@

test: $(STAMP) ## Run the tests (all but those that need a GPU or the network), quick ones first
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not gpu and not net"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "slow and not gpu and not net"

test-fast: $(STAMP) ## Run the quick tests only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not gpu and not net"

coverage: $(STAMP) ## Which lines the quick tests reach (slower than the tests alone)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not gpu and not net" --cov --cov-report=term

lint: $(STAMP) ## Check style and types (ruff, mypy)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Measure the hot steps beside their textbook form
	$(BIN)/python benchmarks/run.py $(ARGS)

train-ast: $(STAMP) ## Multi-object segmentation: background, background data set, foreground, masks, scores, report
	$(BIN)/python ast/run.py $(if $(SPLIT),,--config ast/configs/embedded.yaml) --out $(or $(OUT),runs/ast) $(TRAIN)

train-redo: $(STAMP) ## Object segmentation by redrawing: train, restart after a collapse, score, report
	$(BIN)/python redo/run.py $(if $(SPLIT),,--config redo/configs/embedded.yaml) --out $(or $(OUT),runs/redo) $(TRAIN)

train-maskdistill: $(STAMP) ## Masks, clusters, Mask R-CNN, label maps, DeepLab-v3, CRF, scores, report
	$(BIN)/python maskdistill/run.py $(if $(SPLIT),,--config maskdistill/configs/embedded.yaml) --out $(or $(OUT),runs/maskdistill) $(TRAIN)

train-transformer-seg: $(STAMP) ## MODEL=wnet|segmenter|dino: train, predict, score, report
	$(BIN)/python transformer_seg/run.py --model $(MODEL) $(if $(SPLIT),,--config transformer_seg/configs/embedded_$(MODEL).yaml) --out $(or $(OUT),runs/$(MODEL)) $(TRAIN)

train-stflow: $(STAMP) ## Motion segmentation: train, predict, evaluate, report (SPLIT= trains on your data)
	$(BIN)/python stflow/run.py $(if $(SPLIT),,--config stflow/configs/embedded.yaml) --out $(or $(OUT),runs/stflow) $(TRAIN)

davis-sample: $(STAMP) ## stflow on real video: BASE_DIR=folder of DAVIS; flow, train, predict, evaluate, report
	$(BIN)/python common/make_split.py davis $(BASE_DIR) --base_dir $(BASE_DIR) --sequences $(DAVIS_SAMPLE) --val_sequences $(DAVIS_SAMPLE) --out $(DAVIS_OUT)/davis
	cp $(DAVIS_OUT)/davis_val.csv $(DAVIS_OUT)/davis_train.csv
	$(BIN)/python stflow/run.py --config stflow/configs/davis_sample.yaml --data_file $(DAVIS_OUT)/davis --base_dir $(BASE_DIR) --out $(DAVIS_OUT) $(if $(GPUS),--gpus $(GPUS)) $(ARGS)

segment: $(STAMP) ## INPUT=clip.mp4|folder|picture METHOD=... [CKPT=...]: masks, overlays and a report of your own file
	@test -n "$(INPUT)" || { echo 'error: name what to segment: make segment INPUT=clip.mp4 METHOD=stflow' >&2; exit 2; }
	$(BIN)/python common/segment.py '$(INPUT)' --method $(METHOD) $(if $(filter %.csv,$(INPUT)),--base_dir '$(BASE_DIR)') $(if $(CKPT),--ckpt '$(CKPT)') $(if $(OUT),--out '$(OUT)') $(if $(GPUS),--gpus $(GPUS)) $(if $(ARGS),-- $(ARGS))

compare: $(STAMP) ## Every method on the data it suits: scores, minutes, memory; writes RESULTS.md (DATA=real samples)
	$(BIN)/python benchmarks/results.py $(if $(DATA),--data '$(DATA)') $(ARGS)

report: $(STAMP) ## Write report.html of the run in OUT=
	$(BIN)/python common/report.py $(or $(OUT),runs/stflow)

docs: $(STAMP) ## Build the API pages from the docstrings into docs/api
	PYTHONPATH=.:ast $(BIN)/pdoc --docformat google --no-show-source -o docs/api common stflow redo maskdistill transformer_seg ast_seg

clean: ## Remove runs, caches and .venv
	rm -rf runs docs/api $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
