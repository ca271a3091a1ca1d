# Three commands do all the set-up on a fresh machine:
#   make quickstart   the main job on the built-in quickstart
#   make real         the main job on a real chat model of 135 million parameters, from PyPI
#   make check        the whole check: lint, types, wheel, tests of the installed wheel, tests
# PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

# llama.cpp's own sources (in llama-cpp-python's sdist) are the referee of what we write: kept between checkouts.
LLAMA_CPP := llama_cpp_python-0.3.36
UPSTREAM ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pudistill-tests
PROGRAMS := $(UPSTREAM)/$(LLAMA_CPP)/programs

.PHONY: quickstart real check lint types test wheel installed benchmark go clean

quickstart: $(VENV)/.runtime
	$(BIN)/pudistill run quickstart

# The student's file comes by its hash, once, into pudistill's cache; the run itself opens no connection.
real: $(VENV)/.llamacpp
	$(BIN)/python -m benchmarks.fixtures.smollm2.fetch
	$(BIN)/pudistill run smollm2 --offline

# Types and the installed wheel take one core each; the tests take all, and their summary comes last.
check: lint
	$(MAKE) --no-print-directory -j 2 types installed
	$(MAKE) --no-print-directory test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

# A process a core, each with one thread; a process takes a GiB of memory, so eight are enough.
test: $(VENV)/.dev .upstream/.built go
	EVERY_BACKEND=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

.upstream/.unpacked: $(VENV)/.dev
	mkdir -p $(UPSTREAM)
	test -e .upstream || ln -s $(UPSTREAM) .upstream
	test -d .upstream/$(LLAMA_CPP) || ( \
	  $(BIN)/python -m pip --disable-pip-version-check download -q --no-deps --no-binary llama-cpp-python \
	    -d .upstream llama-cpp-python==0.3.36 && tar -xzf .upstream/$(LLAMA_CPP).tar.gz -C .upstream )
	touch $@

# llama-server renders chat templates with its own Jinja engine; llama-batched-bench is the engine's limit. Their
# libraries are those of llama-cpp-python's wheel, which pip has compiled and keeps: two minutes of CPU instead of ten.
.upstream/.built: .upstream/.unpacked
	test -x $(PROGRAMS)/bin/llama-batched-bench || ( \
	  $(BIN)/cmake -S tests/backends/pudistill_llamacpp/programs -B $(PROGRAMS) -DCMAKE_BUILD_TYPE=Release \
	    -DLLAMA_CPP=$(UPSTREAM)/$(LLAMA_CPP)/vendor/llama.cpp \
	    -DWHEEL="$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('platlib'))")" > .upstream/build.log && \
	  $(BIN)/cmake --build $(PROGRAMS) -j 2 --target llama-server llama-batched-bench >> .upstream/build.log )
	touch $@

# Go's own text/template is the referee of Ollama's templates; on a desk without Go those tests say so and are skipped.
go:
ifdef CI
	command -v go > /dev/null || (apt-get update -qq && apt-get install -y -qq golang-go > /dev/null)
endif

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
	$(BIN)/python -m benchmarks.evidence

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.llamacpp: $(VENV)/.runtime
	$(PIP) -e '.[llamacpp]'
	touch $@

$(VENV)/.dev: $(VENV)/.llamacpp
	$(PIP) -e '.[dev,mlx]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-wheel dist .pytest_cache .ruff_cache
