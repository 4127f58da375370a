# Each target makes what it needs; on a fresh machine with Python and make, `make demo` alone trains and `make test` alone passes.
PYTHON ?= python3
BIN := .venv/bin
# What the tests and the bench compare with. Where pip finds builds for GPUs first, name the CPU build:
# make test TORCH='torch==2.13.0 --index-url <the index of PyTorch with its CPU builds>'
TORCH ?= torch==2.13.0

.PHONY: demo test soak bench lint clean torch peers

demo: .venv/core
	$(BIN)/python -m nbnn demo --out out

test: .venv/test torch
	$(BIN)/python -m pytest -n auto --dist worksteal

# the tests that docs/reliability.md names, at full counts; what they counted goes into that page
soak: .venv/test torch
	mkdir -p out && rm -f out/figures.jsonl
	NBNN_SOAK=1 NBNN_FIGURES=$(CURDIR)/out/figures.jsonl $(BIN)/python -m pytest -n auto --dist worksteal $$(grep -o 'test_[a-z_]*\.py' docs/reliability.md | sort -u | sed 's,^,tests/,')
	$(BIN)/python tests/soak.py out/figures.jsonl

bench: .venv/test torch peers
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA))

# make example-convnet DATA=<the folder of CIFAR-10>: one of examples/*.py; without DATA pictures are made
example-%: .venv/core
	$(BIN)/python examples/$*.py $(if $(DATA),--data $(DATA)) $(if $(SMALL),--small)

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
	touch $@

torch: .venv/test
	@$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) \
		|| echo 'PyTorch could not be installed: the comparisons with it are skipped'

peers: .venv/test
	@$(BIN)/python -c 'import jax, sklearn' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' \
		|| echo 'JAX and scikit-learn could not be installed: the bench goes on without them'

.venv/lint: .venv/made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lint]'
	touch $@
