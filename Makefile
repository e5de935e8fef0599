# Flowloom.  `make demo` and `make test` do all the set-up on a fresh Debian 12 as root.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: help setup demo test simulate neutron-own lint bench docs stubs clean

help: ## What there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: ## Install what is missing: Debian packages, a venv, pinned Python packages
	@PYTHON=$(PYTHON) scripts/setup $(VENV)

demo: setup ## The main job, end to end: a Neutron call becomes a ping between two hosts (KEEP=1 leaves it up)
	@$(BIN)/flowloom demo $(if $(KEEP),--keep)

test: setup ## Every test, against real servers and real switches
	@scripts/test $(BIN) $(JOBS)

N ?= 20000
simulate: setup ## Schedules of the consistency simulator: N=100000, BASE=first seed (random by default)
	@$(BIN)/python scripts/simulate $(N) $(if $(BASE),--base $(BASE))

lint: setup ## Layers, style, types, generated documentation
	@echo "== layers";  $(BIN)/lint-imports --no-cache
	@echo "== ruff";    $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy";    $(BIN)/mypy
	@echo "== docs";    $(BIN)/python -m flowloom.pipeline.render | diff -u docs/pipeline.md - \
	  || { echo "docs/pipeline.md is not what the declaration says: run make docs"; exit 1; }

docs: setup ## Write the generated documentation anew
	@$(BIN)/python -m flowloom.pipeline.render > docs/pipeline.md

stubs: ## Generate the messages of etcd anew (in a venv of its own: the generator's version is the oldest runtime)
	@$(PYTHON) -m venv build/stubs && build/stubs/bin/pip install -q grpcio-tools==1.71.2
	@cd src && ../build/stubs/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
	  flowloom/drivers/store/etcd_rpc.proto

neutron-own: setup ## Neutron's own unit tests with our driver in them (PAIR=1: and without; WRITE=1: write the list anew)
	@PYTHONPATH=tests/neutron_own $(BIN)/python -m own.run --processes $(JOBS) $(if $(PAIR),--pair) $(if $(WRITE),--write) $(if $(ONLY),--only '$(ONLY)')

bench: setup ## Measure; prints a table and writes build/bench.json
	@mkdir -p build && $(BIN)/python bench/run.py --out build/bench.json

clean: ## Remove the lab, the venv and everything built
	@[ ! -x $(BIN)/flowloom ] || $(BIN)/flowloom lab down || true
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
