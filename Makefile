# One word each, the same here and in CI. Each target builds the virtual environment when it is needed.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRODUCT := $(VENV)/.product
DEV := $(VENV)/.dev
NODE := tests/node/node_modules/.package-lock.json
JOBS ?= 4
# Where this is set, as in images of Python, each of some hundred processes would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-again system-packages check lint schemas words types structure docs-check docs format bench soak chaos lock dist migrations clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(PRODUCT) ## run the demo on http://127.0.0.1:8000 (PORT), the sandbox on 8001 (SANDBOX_PORT)
	@exec $(BIN)/paidup demo

test: $(DEV) $(NODE) system-packages ## run all tests; BROWSER_TESTS=0 and PACKAGING_TESTS=0 skip some
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --durations=20

test-again: $(DEV) ## run the tests that failed last once more, alone, if they are at most five
	@failed=$$($(BIN)/python -c 'import json; print(len(json.load(open(".pytest_cache/v/cache/lastfailed"))))') && \
		if [ "$$failed" -gt 5 ]; then echo "$$failed tests failed: too many to be run again"; exit 1; fi
	$(BIN)/python -m pytest -n 1 --dist loadgroup --last-failed --last-failed-no-failures none

# Chromium, the proxies, pgbouncer and PostgreSQL, by apt-get where it may; else one line says what to install.
system-packages: $(DEV)
	@$(BIN)/python -m tests.support.system_packages

# With `make check test`, the tests of the structure run once, among all others.
check: lint schemas words types $(if $(filter test,$(MAKECMDGOALS)),,structure) docs ## format, lint, imports, schemas, strict types, structure; docs-check is part of structure

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo

schemas: $(DEV) ## validate .github/ and compose.yaml with check-jsonschema
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

words: $(DEV) ## find words that the repository avoids (tests/structure/words.txt)
	$(BIN)/python -m tests.structure.words

types: $(DEV)
	$(BIN)/mypy

structure: $(DEV) $(NODE)
	$(BIN)/python -m pytest -q tests/structure

docs-check: $(DEV) $(NODE) ## check links, pictures, commands and code in the documents
	$(BIN)/python -m pytest -q tests/structure/test_docs_check.py tests/structure/test_documents.py tests/structure/test_operations_documents.py

docs: $(DEV) ## build the documentation as a site, strictly, into build/site/site
	@$(BIN)/python docs/site/build.py

format: $(DEV) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV) ## run all benchmarks against their floors, then one table of the goals (most of an hour)
	$(BIN)/python -m tests.bench

soak: $(DEV) ## simulate an hour of customers in minutes and check for leaks
	$(BIN)/python -m tests.soak

chaos: $(DEV) ## kill every process repeatedly under load, on both databases, then audit (up to ten minutes)
	$(BIN)/python -m tests.chaos

# For the oldest Python that is supported, wheels only.
COMPILE := $(BIN)/uv pip compile -q --python-version 3.11 --only-binary :all: --generate-hashes --no-header --upgrade

lock: $(DEV) ## pin all dependencies again with hashes, including the build backend
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) --no-annotate -o requirements/build.txt -
	$(COMPILE) --extra server -o requirements/server.txt pyproject.toml
	$(COMPILE) --extra otel -c requirements/server.txt -o requirements/otel.txt pyproject.toml
	$(COMPILE) --extra demo -c requirements/server.txt -o requirements/demo.txt pyproject.toml
	$(COMPILE) --extra dev -c requirements/build.txt -c requirements/otel.txt -c requirements/demo.txt -o requirements/dev.txt pyproject.toml

dist: $(DEV) ## build the wheel and the source distribution into dist/
	$(BIN)/uv build -q --no-build-isolation --python $(BIN)/python

migrations: $(DEV) ## write a migration for what changed in server/paidup/db/models.py, and the script of new databases
	$(BIN)/tortoise -c paidup.db.connection.TORTOISE makemigrations
	$(BIN)/python -m tests.structure.new_sqlite

clean: ## delete the virtual environment, the demo's data and the caches
	rm -rf $(VENV) tests/node/node_modules .paidup .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "$(PYTHON) is Python %d.%d, and Paidup needs 3.11 or newer: name one, as in `make demo PYTHON=python3.13`" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

# Wheels only, and the build backend is one of the pinned packages: nothing is fetched that has no hash.
# Our modules are compiled as pip compiles those of packages: a first start would take most of a second for it.
$(PRODUCT): $(VENV)/bin/python requirements/build.txt requirements/demo.txt pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/build.txt -r requirements/demo.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q -j 0 server/paidup client_demo/paidup_demo
	@touch $@

# All of it, the product's included. uv takes a sixth of pip's time. Where it fails, pip does the same: pip may
# have a mirror or a proxy in its configuration, which uv does not read.
$(DEV): $(VENV)/bin/python requirements/build.txt requirements/dev.txt pyproject.toml
	sed -n '/^uv==/,/[^\\]$$/p' requirements/dev.txt > $(VENV)/uv.txt
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r $(VENV)/uv.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes --only-binary :all: -r requirements/build.txt -r requirements/dev.txt || \
		$(BIN)/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/build.txt -r requirements/dev.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $(PRODUCT) $@

$(NODE): $(DEV) tests/node/package.json tests/node/hashes.txt
	$(BIN)/python -m tests.support.node
	@touch $@
