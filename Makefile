# Every target sets up what it needs by itself; see .ci/setup for PYTHON and TORCH_BACKEND.
.PHONY: demo test bench lint lock clean setup
.DEFAULT_GOAL := help
BIN := .venv/bin
# Where this is set, as containers like to, every process compiles all that it imports anew: torch takes twice as long, the tests minutes more.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help
help:
	@echo "make demo   the main job, end to end; the report's place is its last line   (ARGS='--seed 1' passes options)"
	@echo "make test   the tests                                                       (ARGS='tests/core -x' passes options)"
	@echo "make bench  the measurements of benchmarks/                                 (BENCH=name: one of them)"
	@echo "make lint   style, types, layers"
	@echo "make lock   compile requirements.lock from pyproject.toml"
	@echo "make clean  remove .venv and caches; datasets and runs stay"

setup:
	@./.ci/setup

demo: setup
	@$(BIN)/robolearn demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS) </dev/null

bench: setup
	@for script in benchmarks/$(if $(BENCH),$(BENCH),*).py; do \
	    [ -e "$$script" ] || { echo "bench: BENCH: '$(BENCH)' is not a benchmark; valid: $(notdir $(basename $(wildcard benchmarks/*.py)))" >&2; exit 2; }; \
	    echo "bench: $$script"; $(BIN)/python "$$script" $(ARGS) || exit $$?; \
	done

# Every step runs even where one before it failed.
lint: setup
	@rc=0; PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; \
	for step in "ruff check" "ruff format --check" basedpyright lint-imports; do \
	    echo "lint: $$step"; $$step </dev/null || { echo "lint: $$step FAILED"; rc=1; }; \
	done; exit $$rc

lock: setup
	@PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip compile -q --universal --python-version 3.11 --all-extras --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements.lock $(ARGS)

clean:
	rm -rf .venv .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
