# Needs make and Python 3.11 or newer; everything else goes into .venv. `make PYTHON=python3.12 test` picks another Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Kernels are compiled with the Triton of our GPU image and with the newest one. Each stands in a folder of its own.
TRITONS := 3.6.0 3.9.0
TARGETS := sm_80,sm_90,sm_100,gfx942
# One thread a worker: the models are tiny, and workers that all take every core slow each other down.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=4

WAYS := ours,two-pass,one-pass,two-models

.PHONY: demo test nightly lint kernels docs figures benchmarks clean

demo: $(VENV)/installed  ## set up and run the main job
	$(BIN)/tte demo

test: $(VENV)/installed-dev  ## set up and run the tests
	$(PYTEST)

# One after another: each takes minutes and the whole machine.
nightly: $(VENV)/installed-dev  ## the tests that take minutes: the worked example of docs/training.md, SmolLM2, every kernel compiled
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kernels: $(TRITONS:%=$(VENV)/triton-%)  ## compile every kernel for every GPU, without one, and gate what it costs
	$(MAKE) --jobs=2 --output-sync=target $(TRITONS:%=compile-%)

compile-%: $(VENV)/triton-%
	PYTHONPATH=$<:kernels TRITON_CACHE_DIR=$<-cache OMP_NUM_THREADS=1 \
		$(BIN)/python -m tte_kernels.compile_check --targets $(TARGETS)

$(VENV)/triton-%: | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ triton==$*
	touch $@

.PRECIOUS: $(VENV)/triton-%

docs: $(VENV)/installed-dev  ## what is generated from code: docs/cli.md, kernels/README.md
	$(BIN)/python docs/cli.py > docs/cli.md
	$(BIN)/python -m tte_kernels.readme --write

figures: $(VENV)/installed-dev  ## pictures of the README from a run; pictures and tables of benchmarks from results
	$(BIN)/python docs/pictures/make.py
	$(BIN)/python -m benchmarks.figures
	$(BIN)/python -m benchmarks.scenes
	$(BIN)/python -m benchmarks.report

benchmarks: $(VENV)/installed-dev  ## what a CPU can measure, on an idle machine; rows go to benchmarks/results
	$(BIN)/python -m benchmarks.embed --image 16,64 --trace own,0,32 --batch 1,8 --ways $(WAYS)
	$(BIN)/python -m benchmarks.embed --shape qwen2vl-small --head --image 64 --trace 0,32 --batch 1,8 --ways $(WAYS) --rounds 5
	$(BIN)/python -m benchmarks.load --seconds 6 --objective-ms 500
	$(BIN)/python -m benchmarks.host
	$(BIN)/python -m benchmarks.ablation
	$(BIN)/python -m benchmarks.ablation --kernels torch
	$(BIN)/python -m pytest benchmarks --benchmark-only -q

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"tte-runtime needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -e ".[dev]"
	touch $@
