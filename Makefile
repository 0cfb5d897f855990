# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: bench install demo test test-slow test-oldest audit lint format results fix-copies docs wheel clean

install: $(INSTALLED)

# torch first and by exact version: asked for as a range it would bring in CUDA packages of several gigabytes.
$(INSTALLED): setup.cfg pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lstsd_hf needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' $(CONSTRAINTS))"
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[test]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m lstsd_hf.glue.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist load -m slow -rP

# With the oldest supported transformers, in an environment of its own.
test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

# What a new user gets with every extra: the newest versions of all dependencies.
audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-audit uv
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --python-version 3.14 --all-extras \
		--output-file $(VENV)/audit.txt pyproject.toml
	$(BIN)/python .ci/audit.py $(VENV)/audit.txt

# Half an hour with nothing else on the machine; figures in build/bench.json.
bench: $(INSTALLED)
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks --json build/bench.json

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(INSTALLED)
	$(BIN)/python -m studies.render

# What follows from the methods: public names for type checkers, tables, the menu of the site.
fix-copies: $(INSTALLED)
	$(BIN)/python tools/fix_copies.py

# The site, in build/site; a broken link is an error.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

wheel: $(INSTALLED)
	rm -rf build/lib
	$(BIN)/python -m build --wheel

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
