# Only Python 3.11+, git and make are needed: the tools are installed into .venv.

PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Two modules at a time, because most tests wait for a process that they have started.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=10

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-fast test-framework bench bench-batch bench-image lint format lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/ready ## Render a project, train a model, serve it and request predictions
	$(BIN)/python scripts/demo.py

test: lint ## Run everything: lint and all tests except the long sweeps
	$(PYTEST)

test-all: lint ## Like test, with the long sweeps; takes hours
	LONG_TESTS=1 $(PYTEST)

test-fast: .venv/ready ## Run the quick tests, without installed projects and Docker
	$(PYTEST) -m "not slow and not docker"

test-framework: .venv/ready ## Run the framework's tests in a project in build/framework; TESTS=... selects some
	rm -rf build/framework
	$(BIN)/python -W ignore -m copier copy --defaults --quiet --vcs-ref HEAD . build/framework
	cd build/framework && git init --quiet && $(abspath $(BIN))/uv run --quiet --with pytest-xdist pytest -q -n 2 \
		-c pyproject.toml --confcutdir=$(CURDIR)/tests/framework $(or $(TESTS),$(CURDIR)/tests/framework)

bench: .venv/ready ## Compare the API with others; see benchmarks/README.md
	$(BIN)/python -m benchmarks.serving $(if $(SYSTEMS),--systems $(SYSTEMS)) $(if $(SECONDS),--seconds $(SECONDS))

bench-batch: .venv/ready ## Compare batch inference with others; needs Java 17 for Spark
	$(BIN)/python -m benchmarks.batch $(if $(SYSTEMS),--systems $(SYSTEMS)) $(if $(INPUTS),--inputs $(INPUTS)) \
		$(if $(ROWS),--rows $(ROWS))

bench-image: .venv/ready ## Compare the images with others; needs Docker, takes minutes
	$(BIN)/python benchmarks/images.py

lint: .venv/ready ## Check format, style, types and workflows of the template
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet .github

format: .venv/ready ## Format the template's Python and fix its style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# uv's index settings are ignored, because the lock must match the public index.
lock: .venv/ready ## Update requirements.lock from requirements.in
	env -u UV_FIND_LINKS -u UV_INDEX -u UV_DEFAULT_INDEX $(BIN)/uv pip compile --no-config --quiet \
		--upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock requirements.in

clean: ## Remove all build output
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache

.venv/ready: requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: install one, or name it with 'make PYTHON=/path/to/python ...'." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@
