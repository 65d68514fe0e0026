# make test | make demo set everything up by themselves; nothing but Python >= 3.10, make and a compiler is needed.
#
#   make .venv                     install into .venv and nothing else
#   make .venv TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"    another build of torch
#   make test VENV=/path/to/env    use an existing environment as it is; nothing is installed into it
#   make test PYTEST="-m golden"   other arguments for pytest; without any, the tests marked slow are left out

PYTHON ?= python3
TORCH ?= torch==2.13.0
JOBS ?= 2
PYTEST ?= -m "not slow"

# One thread per process: tests and the demo run two processes side by side, and their results stay repeatable.
export OMP_NUM_THREADS ?= 1

ifeq ($(strip $(VENV)),)
BIN := .venv/bin
READY := .venv/.installed
else
# A foreign environment need not hold this project, so its two renamed folders are made importable from here.
BIN := $(VENV)/bin
READY := build/import_names
export PYTHONPATH := $(CURDIR):$(CURDIR)/build/import_names$(if $(PYTHONPATH),:$(PYTHONPATH))
endif

.PHONY: .venv test demo docs reference lint format clean chromium

.venv: .venv/.installed

.venv/.installed: pyproject.toml
	@echo "Installing into .venv: $(TORCH), then the other dependencies (minutes)"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check --quiet $(TORCH)
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@

build/import_names:
	mkdir -p $@.partial
	ln -sfn ../../eval $@.partial/scal3r_eval
	ln -sfn ../../data_tools $@.partial/scal3r_data_tools
	mv $@.partial $@

test: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST)

demo: $(READY)
	$(BIN)/python -m scal3r_eval.demo

# The documentation site, from docs/ and the docstrings into build/site; nothing is fetched.
docs: $(READY) build/import_names
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

# The pages that are generated from the code; a test compares them.
reference: $(READY)
	$(BIN)/python -m scal3r_train.cli.reference docs

# Debian's browser, in which tests open the report and the viewer; without one they are skipped.
APT := apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && as_root= || as_root="sudo -n"; \
	  $$as_root $(APT) update && $$as_root $(APT) install -y --no-install-recommends chromium; }

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
