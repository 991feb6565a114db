# Everything runs from here with python3 (3.11 or newer) and the package registry alone: no root, no Docker, no server
# installed beforehand. Targets make .venv themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One home for the servers that demo and bench use, inside this checkout; tests make their own.
export HOLDFAST_HOME ?= $(CURDIR)/.holdfast

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports unit prove faults bench format clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.runtime ## set up, then replay the shipped swarm scenarios on two servers (the main job)
	@"$(BIN)/holdfast" demo $(ARGS)

test: lint types imports unit ## set up, then run lint, types, import contracts and all tests in their short form

lint: $(VENV)/.dev
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

types: $(VENV)/.dev
	"$(BIN)/mypy"

imports: $(VENV)/.dev
	"$(BIN)/lint-imports"

unit: $(VENV)/.dev
	"$(BIN)/python" -m pytest -m "not prove" -n 2 --dist loadgroup $(ARGS)

# Parts, each under 10 minutes: worlds, scopes, writebehind-sim-one, -two and -three, owners, runs, exports, feed, mass, tags, events, journals, crashes,
# failovers, embedded; of write-behind kills, writes, bulk; faults-one, faults-two (at random), fuzz. Without PART all run, one after the other.
prove: $(VENV)/.dev ## run the long forms; PART=worlds (or another) runs one
	"$(BIN)/python" -m pytest -m prove $(if $(PART),-k "prove_$(subst -,_,$(PART))") $(if $(filter worlds scopes writebehind-sim% owners runs exports,$(PART)),-n 2) --timeout 600 $(ARGS)

# Parts, each under 10 minutes: l2, l3, outage, feed, process. Figures are kept, so that they may be run one by one.
faults: export FAULT_FIGURES := $(CURDIR)/.holdfast/faults
faults: $(VENV)/.dev ## run the fault matrix and show its figures; PART=l2 runs one part, ARGS=--write puts them into the proofs
	@"$(BIN)/python" -m pytest tests/faults/test_matrix.py -m prove -k "faults_$(PART)" --timeout 600; status=$$?; \
		PYTHONPATH=tests "$(BIN)/python" -m faults.report $(ARGS) && exit $$status

bench: $(VENV)/.dev ## run the benchmarks and write docs/reference/performance.md
	"$(BIN)/python" -m benchmarks $(ARGS)

format: $(VENV)/.dev ## put the code into form
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

clean: ## stop this checkout's servers and remove what the targets made
	@if [ -x "$(BIN)/holdfast" ]; then "$(BIN)/holdfast" down; fi
	rm -rf "$(CURDIR)/$(VENV)" "$(CURDIR)/.holdfast" .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks examples tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Holdfast needs Python 3.11 or newer; set PYTHON=/path/to/one" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml
	@echo "Setting up .venv (a minute or so, once) ..."
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Setting up the development tools (once) ..."
	@$(PIP) install --group dev
	@touch $@
