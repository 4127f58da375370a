# Each target makes what it needs; on a fresh machine with Python and make, `make demo` alone trains and `make test` alone passes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench lint clean

demo: .venv/core
	$(BIN)/python -m nbnn demo --out out

test: .venv/test
	$(BIN)/python -m pytest

bench: .venv/test
	$(BIN)/python -m bench $(if $(QUICK),--quick)

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/made:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "nbnn needs Python 3.11 or newer; this is " + sys.version'
	$(PYTHON) -m venv .venv
	touch $@

.venv/core: .venv/made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plots]'
	touch $@

.venv/test: .venv/made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 \
		|| echo 'PyTorch 2.13.0 could not be installed: the comparisons with it will be skipped'
	touch $@

.venv/lint: .venv/made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lint]'
	touch $@
