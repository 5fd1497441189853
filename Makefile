# Every target explains itself: `make help`.
.PHONY: help install test lint format types demo model bench wheel

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

bench: ## the default latency table of this machine, into benchmarks/results/
	$(VENV)/bin/edge-fer bench --data $(DATA) --split test

wheel: ## what people install
	$(VENV)/bin/pip wheel --no-deps -w dist .
