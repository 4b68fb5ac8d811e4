# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
# A user needs Python 3.11+, make and git; nothing else.
#
#   make demo                                     the main job, on this machine, in a few minutes
#   make test                                     the tests
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu    with the CPU build of torch (200 MB instead of 3 GB)
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cu128  with a particular CUDA build

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PYTEST_ARGS ?=
WORKERS ?= auto
EXPERIMENTS ?= experiments/quick
DEB_PYTHON ?= /usr/bin/python3

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXTRA_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.DEFAULT_GOAL := help
.PHONY: help install demo test check format docs bench bench-train bench-methods bench-mask results screenshots wheel deb clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "jmmda-node needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q 'pip==25.3'
	@touch $@

$(VENV)/.torch: $(VENV)/.pip
	$(PIP) install -q $(EXTRA_INDEX) -c constraints.txt torch
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(PIP) install -q -c constraints.txt --group test --group lint -e '.[train]'
	@touch $@

install: $(VENV)/.installed ## the virtual environment alone

demo: install ## throwaway node and miniature PACS; writes demo-out/ (montage.png, report.json, both series)
	$(BIN)/jmmda-node demo --out demo-out

# One thread per test process: several processes with several threads each get in each other's way.
test: install ## all tests; those that need Orthanc or DCMTK skip with a message where these are missing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

check: install ## format, lint, types, import rules, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: install ## rewrite the sources to the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## write the pages that are generated from the code
	$(BIN)/python -m dicom_node.dicom.choice_page > docs/selection.md
	$(BIN)/python -m dicom_node.dicom.gate_page > docs/geometry.md
	$(BIN)/python -m dicom_node.derive.conformance_page > docs/conformance.md
	$(BIN)/python -m dicom_node.operate.doctor.page > docs/doctor.md
	$(BIN)/python -m tests.dicom_node.bad_input.page > docs/bad-input.md
	$(BIN)/python -m jmmda_model.imaging.eligibility_page > docs/eligibility.md

bench-train: install ## images a second of the full training step of `base`, beside the floor measured in the same rounds
	$(BIN)/python -m benchmarks.train_step

bench-methods: install ## every method in one table: size, multiply-adds, seconds a series, training images a second, memory
	$(BIN)/python -m benchmarks.methods

results: install ## every experiment on the phantom at the budget quick, into docs/results (an hour on two cores)
	$(BIN)/jmmda-node train experiment all --budget quick --out $(EXPERIMENTS)
	rm -rf docs/results && cp -r $(EXPERIMENTS)/report/pages docs/results

bench-mask: install ## the brain mask against the truth of phantoms and, with JMMDA_TEST_DATA, of public scans
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mask

bench: install ## seconds per stage, memory, ratios to the floors; prints tables, writes .bench/
	$(BIN)/python -m benchmarks.run

screenshots: install ## pictures of OHIF for docs/viewers.md; needs chromium, orthanc-dicomweb, Node.js and npm's registry
	$(BIN)/python -m benchmarks.viewer

wheel: install ## build the wheel into dist/
	$(PIP) wheel -q --no-deps -w dist .

# The environment inside is made by Debian's own Python, for the release of Debian or Ubuntu that this machine runs.
deb: wheel ## dist/jmmda-node_VERSION_ARCH.deb, which installs without a network; needs dpkg-deb and python3-venv
	packaging/build_deb.sh --wheel "$$(ls -t dist/jmmda_node-*.whl | head -n 1)" --python $(DEB_PYTHON) --out dist -- $(EXTRA_INDEX)

clean: ## remove what the targets above made, the virtual environment included
	rm -rf $(VENV) demo-out .viewer dist build *.egg-info .bench .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
