# Every target explains itself: `make help`.
.PHONY: help install test lint format types demo model bench ptx wheel

VENV ?= .venv
DATA ?= data/fer2013

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: ## virtual environment with everything that development needs
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -e '.[dev]'
	$(VENV)/bin/pre-commit install

test: ## the whole suite
	$(VENV)/bin/pytest

lint: ## ruff and the import layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

format: ## let ruff rewrite the files
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

types: ## mypy, strict
	$(VENV)/bin/mypy

demo: ## the main job on the clip that ships with the project
	$(VENV)/bin/edge-fer run --demo

MACHINE ?= this-machine
PAGE ?= benchmarks/RESULTS.md

bench: ## benchmarks/RESULTS.md with page and pictures, measured on this machine (leave it alone meanwhile)
	$(VENV)/bin/edge-fer bench --plan benchmarks/plans/results.yaml --data $(DATA) --split test --roofline --device-profile mx250 \
	  --camera 20s --out benchmarks/results/$(MACHINE) --markdown $(PAGE)

RUN ?= runs/compact
CARD = docs/models/edge-fer-compact
SHIPPED = edge_fer/checkpoints/edge-fer-compact.safetensors

model: ## ship what a training run made: checkpoint, bundle, reports, model card (needs RUN, DATA, COUNTS)
	mkdir -p $(dir $(SHIPPED))
	cp $(RUN)/last.safetensors $(SHIPPED)
	mkdir -p $(CARD)
	cp $(RUN)/log.csv $(RUN)/curve.png $(CARD)/
	EDGE_FER_DATA=$(dir $(DATA)) $(VENV)/bin/edge-fer compile $(SHIPPED) --precision int8 --calibration calibration/edge-fer-compact.yaml \
	  --data $(DATA) --split test --max-drop 0.5 --bias-correction --trt-dialect --out engines/edge-fer-compact
	$(VENV)/bin/edge-fer eval --data $(DATA) --split test --precision fp32 --backend onnxruntime --json $(CARD)/fp32.json
	$(VENV)/bin/edge-fer eval --data $(DATA) --split test --precision int8 --backend onnxruntime --json $(CARD)/int8.json \
	  --png $(CARD)/report-int8.png
	$(VENV)/bin/python scripts/model_card.py --run $(RUN) --counts $(COUNTS) --fp32 $(CARD)/fp32.json \
	  --int8 $(CARD)/int8.json --out $(CARD).md

ptx: ## the device code of edge_fer/cuda/kernels/*.cu, for compute capability 6.1 and newer
	$(VENV)/bin/python scripts/build_ptx.py

wheel: ## what people install
	$(VENV)/bin/pip wheel --no-deps -w dist .
