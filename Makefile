# Two commands do all the set-up on a fresh machine:
#   make quickstart   the main job on the built-in quickstart
#   make check        the whole check: lint, types, tests, wheel, tests of the installed wheel
# PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: quickstart check lint types test wheel installed benchmark clean

quickstart: $(VENV)/.runtime
	$(BIN)/pudistill run quickstart

check: lint types test wheel installed

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

test: $(VENV)/.dev
	$(BIN)/python -m pytest

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/check-wheel-contents dist/*.whl

# The wheel is tested on its own: its environment borrows the dependencies of $(VENV), not the source tree.
installed: wheel
	rm -rf $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$($(VENV)-wheel/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check install -q --no-deps --no-index --ignore-installed dist/*.whl
	cd tests/installed && ../../$(VENV)-wheel/bin/python -P -m pytest -c pytest.ini .

benchmark: $(VENV)/.dev
	$(BIN)/python -m benchmarks.quickstart

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-wheel dist .pytest_cache .ruff_cache
