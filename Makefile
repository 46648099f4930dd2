# Nine verbs. The first two set everything up by themselves: Python 3.11 or later and make suffice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-all-dev
ARVIZ1 := .venv-arviz1

.PHONY: demo test test-arviz1 lint docs notebooks bench bench-gpu study-check

demo: $(STAMP)
	$(BIN)/bayesdrop demo --out runs/demo

# Bytecode is kept whatever the shell says: tests start many processes, which would each compile all.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist worksteal

# What meets ArviZ, under its version 1: beside the environment, of which it sees the rest.
test-arviz1: $(ARVIZ1)/.installed
	OMP_WAIT_POLICY=PASSIVE $(ARVIZ1)/bin/python -m pytest -p no:cacheprovider \
		$(addprefix tests/diagnostics/test_,guide.py inference_data.py leave_one_out.py)

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The site, build/docs/html/index.html, which needs no network. A warning is an error.
docs: $(VENV)/.installed-docs
	mkdir -p build/docs/source
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/sphinx-build -W --keep-going -n -q -c docs \
		build/docs/source build/docs/html

bench: $(STAMP)
	$(BIN)/python benchmarks/step_time.py && $(BIN)/python benchmarks/predict_time.py

# Tables of steps and growth, and the VGG recipes, on a GPU. BENCH="--device cpu --quick" tries it.
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py $(BENCH)

# Trains a random finished run of the study again, and compares its figures.
study-check: $(STAMP)
	$(BIN)/python benchmarks/study.py check

# The tutorials as notebooks with their output, build/notebooks: those that have changed.
notebooks: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[notebooks]'
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python docs/notebooks.py

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[all,dev]'
	touch $@

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	touch $@

# ArviZ 1 says that it needs Python 3.12; what is tested here runs on 3.11 too.
$(ARVIZ1)/.installed: $(STAMP) Makefile
	test -x $(ARVIZ1)/bin/python || $(BIN)/python -m venv $(ARVIZ1)
	$(ARVIZ1)/bin/python -m pip install --no-deps --ignore-requires-python 'arviz==1.3.0' \
		'arviz-base==1.3.1' 'arviz-stats==1.3.3' 'arviz-plots==1.3.2' 'lazy-loader==0.6'
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % \
		sysconfig.get_path('purelib'))" > $$($(ARVIZ1)/bin/python -c \
		"import sysconfig; print(sysconfig.get_path('purelib'))")/rest.pth
	touch $@
