# Everything runs from Python 3.11+, git and make: the tools are installed into .venv.

PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Two modules at a time: most tests wait for one process that they have started.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=10

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-fast test-framework bench bench-image lint format lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/ready ## Render a project, train it, serve it, ask it for predictions
	$(BIN)/python scripts/demo.py

test: lint ## Everything: lint, and the rendered projects' own checks
	$(PYTEST)

test-all: lint ## As test, with the long sweeps; hours
	LONG_TESTS=1 $(PYTEST)

test-fast: .venv/ready ## The quick tests: no installed project, no Docker
	$(PYTEST) -m "not slow and not docker"

test-framework: .venv/ready ## The framework's own tests, in a project rendered into build/framework; TESTS=... for some
	rm -rf build/framework
	$(BIN)/python -W ignore -m copier copy --defaults --quiet --vcs-ref HEAD . build/framework
	cd build/framework && git init --quiet && $(abspath $(BIN))/uv run --quiet --with pytest-xdist pytest -q -n 2 \
		-c pyproject.toml --confcutdir=$(CURDIR)/tests/framework $(or $(TESTS),$(CURDIR)/tests/framework)

bench: .venv/ready ## Measure the API beside others; see benchmarks/README.md
	$(BIN)/python -m benchmarks.serving $(if $(SYSTEMS),--systems $(SYSTEMS)) $(if $(SECONDS),--seconds $(SECONDS))

bench-image: .venv/ready ## Measure the images beside others; needs Docker, takes minutes
	$(BIN)/python benchmarks/images.py

lint: .venv/ready ## Check format, style, types and workflows of the template itself
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet .github

format: .venv/ready ## Rewrite the template's own Python as lint wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The environment of pip and uv is set aside: the lock holds what the public index has.
lock: .venv/ready ## Renew requirements.lock from requirements.in
	env -u UV_FIND_LINKS -u UV_INDEX -u UV_DEFAULT_INDEX $(BIN)/uv pip compile --no-config --quiet \
		--upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock requirements.in

clean: ## Remove what was built here
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache

.venv/ready: requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: install one, or name it with 'make PYTHON=/path/to/python ...'." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@
