# Everything runs in .venv, which the first command makes from the registry.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip install --disable-pip-version-check --quiet
DEMO := runs/demo
REFERENCE := libtpu|mpmath|networkx|sympy|timm|torch|torchvision
SOURCES := vidjax configs tests benchmarks docs colabs
# Large pages: XLA takes and returns hundreds of megabytes at every step, and on
# Linux a quarter of a large model's time on a CPU went into page faults.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test lint format docs colabs reference aot constraints clean

demo: $(VENV)/.installed
	@echo "== training the demo (configs/xvit_motion.py) in $(DEMO)"
	$(RUN)/python -m vidjax.main --config=configs/xvit_motion.py \
	  --workdir=$(DEMO)
	@echo "== open $(DEMO)/report.html"

test: lint
	@echo "== tests"
	$(RUN)/python -m pytest -n 2 --dist=worksteal --durations=10 -q

lint: $(VENV)/.installed-dev
	@echo "== lint and types"
	$(RUN)/ruff check $(SOURCES)
	$(RUN)/ruff format --check $(SOURCES)
	$(RUN)/basedpyright

docs: $(VENV)/.installed-dev
	@echo "== building the documentation in build/site"
	NO_MKDOCS_2_WARNING=1 $(RUN)/python -m mkdocs build --strict --quiet
	@echo "== open build/site/index.html"

colabs: $(VENV)/.installed-dev
	@echo "== running the notebooks in small sizes"
	$(RUN)/python -m colabs.run --smoke

format: $(VENV)/.installed-dev
	$(RUN)/ruff check --fix $(SOURCES)
	$(RUN)/ruff format $(SOURCES)

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (a minute or two)"
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "== adding the developers' tools to $(VENV)"
	$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

# Some tests compare with PyTorch and timm, and are skipped without. timm needs
# torchvision's names only, whose wheels ask for a CUDA build of PyTorch.
reference: $(VENV)/.installed-dev
	@echo "== adding PyTorch and timm to $(VENV), which some tests compare with"
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt --no-deps timm torchvision

aot: $(VENV)/.installed-dev $(VENV)/libtpu
	@echo "== compiling small models for TPUs, without one"
	PYTHONPATH=$(VENV)/libtpu JAX_PLATFORMS=cpu \
	  $(RUN)/python -m pytest -n 2 -q tests/tools/test_aot.py -k "slice or logits"

# Beside the environment: inside, it makes jax look for a TPU at every start.
$(VENV)/libtpu: constraints.txt | $(VENV)/.installed
	$(PIP) -c constraints.txt --no-deps --upgrade --target $@ libtpu
	@touch $@

# Newest versions that fit pyproject.toml, resolved in an environment of its
# own; run the tests before committing the result.
constraints:
	rm -rf $(VENV)-new && $(PYTHON) -m venv $(VENV)-new
	$(VENV)-new/bin/python -m pip install --quiet ".[dev]"
	{ head -n 1 constraints.txt; { $(VENV)-new/bin/python -m pip freeze \
	  --exclude vidjax; grep -E "^($(REFERENCE))==" constraints.txt; \
	  } | sort -f; } > constraints.new
	mv constraints.new constraints.txt && rm -rf $(VENV)-new

clean:
	rm -rf $(VENV) $(VENV)-new runs build dist *.egg-info \
	  .pytest_cache .ruff_cache .hypothesis
