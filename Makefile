# `make demo` shows the main job, `make test` runs the tests; both make .venv first when it is missing or stale.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
FIMBLE := $(VENV)/bin/fimble
REPO ?=
export REPO

.PHONY: setup demo test test-slow gpu-check lint clean

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	touch $@

demo: $(STAMP)
	$(FIMBLE) demo $(if $(REPO),"$$REPO",. "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')")

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint
	$(VENV)/bin/python -P -m pytest

test-slow: $(STAMP)
	$(VENV)/bin/python -P -m pytest -m slow

# On a machine with a GPU: the same logits as the processor's, and speed beside what its memory allows.
TARGET ?= cuda
gpu-check: $(STAMP)
	$(VENV)/bin/python -P -m pytest -m gpu
	$(VENV)/bin/python -P -m benchmarks.gpu --target $(TARGET)
	$(VENV)/bin/python -P -m benchmarks.gpu --target $(TARGET) --starcoder

clean:
	rm -rf $(VENV)
