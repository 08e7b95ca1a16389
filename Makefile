# `make` or `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links
PURE := service/errors.py,service/wire.py,service/delivery.py,service/snapshot.py,service/rules.py,service/policy.py,service/case.py,service/outcome.py,service/hooks.py
# Where each test's database lies: in memory if there is room, as a thousand of them wait for the disk otherwise.
FAST_DISK := $(shell test "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $$4}')" -gt 4000000 2>/dev/null \
	&& echo /dev/shm || echo "$${TMPDIR:-/tmp}")
# The tests start hundreds of processes, which must not compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test lint format check mutants reliability reliability-full faults kills histories sabotage bench lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

run: $(VENV)/run.stamp ## Run Autoship: against your OMS if its variables are set, else in a sandbox
	@if env | grep -qE '^(OMS|OMNITRON|SHIP|WEBHOOK)_[A-Z_]*=.'; then \
		echo "make run: OMS, ship or webhook variables are set: autoship up" >&2; \
		exec $(BIN)/autoship up; \
	else \
		echo "make run: no OMS, ship or webhook variable is set: autoship up --sandbox (Ctrl-C ends it)" >&2; \
		exec $(BIN)/autoship up --sandbox; \
	fi

test: $(VENV)/test.stamp ## Run every test; the unit tests must cover the pure modules to the last branch
	@tests/system_packages.sh
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/unit
	$(BIN)/coverage report --include=$(PURE) --show-missing --fail-under=100
	TMPDIR=$(FAST_DISK) $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --ignore=tests/unit $(ARGS)

lint: $(VENV)/test.stamp ## Check style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/test.stamp ## Format the code
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

check: lint test ## What CI runs

mutants: $(VENV)/test.stamp ## Change the pure modules in every small way and see that a test notices
	rm -rf mutants && mkdir mutants
	nice $(BIN)/mutmut run $(ARGS) > mutants/run.log 2>&1 || { tail -n 50 mutants/run.log; exit 1; }
	@grep -oE 'service\.[^`]+__mutmut_[0-9]+' docs/mutants.md > mutants/explained || true
	@echo "Survivors that docs/mutants.md does not explain:"
	@! $(BIN)/mutmut results | grep -E 'survived|no tests' | grep -vwFf mutants/explained

reliability: $(VENV)/test.stamp ## All campaigns at a tenth of their size, in a quarter of an hour, into var/reliability.md
	$(BIN)/python -m tests.reliability.full --scale 0.1 $(ARGS)

faults: $(VENV)/test.stamp ## Every fault of the OMS at every operation; its ledger judges
	$(BIN)/python -m tests.reliability.matrix

kills: $(VENV)/test.stamp ## Kill real processes 100 times under 5,000 deliveries, on each database; the OMS's ledger judges
	$(BIN)/python -m tests.reliability.campaign $(ARGS)

histories: $(VENV)/test.stamp ## Run 10,000 random histories of a misbehaving OMS under virtual time
	$(BIN)/python -m tests.simulation --histories 10000 --seed 1

reliability-full: $(VENV)/test.stamp ## All campaigns at full size, for hours, into docs/reliability.md; goes on where Ctrl-C ended it
	$(BIN)/python -m tests.reliability.full $(ARGS)

sabotage: $(VENV)/test.stamp ## Take out one protection at a time and see that a test notices
	$(BIN)/python -m tests.reliability.sabotage

bench: $(VENV)/bench.stamp ## Measure against a bare Flask, a naive one and Celery, for an hour, into docs/performance.md
	$(BIN)/python -m tests.bench $(ARGS)

lock: $(VENV)/test.stamp ## Pin the newest versions of all dependencies, with hashes
	$(COMPILE) --upgrade --output-file requirements.txt pyproject.toml
	$(COMPILE) --upgrade --extra test --constraint requirements.txt --output-file tests/requirements.txt pyproject.toml
	printf 'hatchling\neditables\n' | $(COMPILE) --upgrade --output-file deploy/requirements-build.txt -
	printf 'celery\nredis\n' | $(COMPILE) --upgrade --constraint tests/requirements.txt --output-file tests/bench/requirements.txt -
	$(PIP) install --require-hashes -r requirements.txt -r tests/requirements.txt
	$(BIN)/python -m tests.deploy.licences

clean: ## Remove everything that was made, but no data
	rm -rf $(VENV) mutants dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/run.stamp: requirements.txt deploy/requirements-build.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.txt -r deploy/requirements-build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp tests/requirements.txt
	$(PIP) install --require-hashes -r tests/requirements.txt
	@touch $@

$(VENV)/bench.stamp: $(VENV)/test.stamp tests/bench/requirements.txt
	$(PIP) install --require-hashes -r tests/bench/requirements.txt
	@touch $@
