# The kit's commands. Everything runs in .venv, which the first command makes; nothing else is needed but Python ≥ 3.11.
PYTHON  ?= python3
PROFILE ?= demo
DATA    ?=
OUT     ?= runs/$(PROFILE)
RUN     ?=
DEVICE  ?= auto
SET     ?=
LAB_FLAGS ?=
PIP_FLAGS ?=
BIN     := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: help env reproduce test lab explore notebooks study benchmark fuzz coverage mutation lint clean
help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo "variables: PROFILE=smoke|demo|base  DATA=folder  RUN=folder  OUT=folder  SET=key=value  LAB_FLAGS=…  PIP_FLAGS=…  PYTHON=python3.12"

env: .venv/.complete  ## make .venv from requirements.txt: some minutes, 7 GB (with CUDA; it runs on CPUs too)
.venv/.complete: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {v.major}.{v.minor}: make … PYTHON=python3.12")'
	@echo "making .venv: 2 to 5 minutes on a fast network, 7 GB; less without CUDA: CONTRIBUTING.md, Other ways to install"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_FLAGS) --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/python -m ipykernel install --sys-prefix --name mcr --display-name "MCR kit"
	touch $@

reproduce: env  ## data, all notebooks in order, and runs/<profile>/index.html with every figure, table and claim
	$(BIN)/python -m benchmarks.reproduce --profile $(PROFILE) --out $(OUT) $(if $(DATA),--data $(DATA)) $(addprefix --set ,$(SET))

test: lint  ## all tests
	$(BIN)/python -m pytest

lab: env  ## JupyterLab on your own copies of the notebooks, in runs/lab; remotely: LAB_FLAGS="--no-browser --ip=0.0.0.0"
	$(BIN)/python -m kit.lab $(LAB_FLAGS)

explore: env  ## the retrieval explorer as a page of its own, on this machine only: RUN=folder DATA=folder
	@test -n "$(RUN)" -a -n "$(DATA)" || { echo "make explore RUN=folder DATA=folder: RUN or DATA is missing" >&2; exit 2; }
	$(BIN)/python -m kit.explore_page --run "$(RUN)" --data "$(DATA)"

notebooks: env  ## derive notebooks/*.ipynb from notebooks/src/*.py
	$(BIN)/python notebooks/src/derive.py

study: env  ## arms × seeds and a verdict for every claim, resumable: DATA=folder OUT=folder
	@test -n "$(DATA)" || { echo "make study DATA=folder OUT=folder: DATA is missing" >&2; exit 2; }
	@test "$(PROFILE)" != small || { echo "make study PROFILE=small: the study trains MCR, so it is one of smoke, demo, base" >&2; exit 2; }
	$(BIN)/python -m benchmarks.study --data $(DATA) --out $(OUT) --profile $(PROFILE) --device $(DEVICE)

benchmark: env  ## what a step costs beside open_clip, which this installs first: OUT=FILE.json, DEVICE=auto|cpu|cuda
	$(BIN)/pip install --quiet --editable .[bench]
	$(BIN)/python -m benchmarks.cost --device $(DEVICE) --out $(if $(filter %.json,$(OUT)),$(OUT),runs/benchmark.json)

fuzz: env  ## 138,000 generated odd or damaged inputs through every reader, 20 to 60 minutes: OUT=FILE.json
	$(BIN)/python -m tests.fuzz $(if $(filter %.json,$(OUT)),--out $(OUT))

mutation: env  ## small faults in masking, losses, ranks, splits, weight loading: are they found? an hour: OUT=FILE.json
	$(BIN)/python -m benchmarks.mutation $(if $(filter %.json,$(OUT)),--out $(OUT))

coverage: env  ## lines of mcr_lib and data_prep that all tests run, longer than make test: OUT=FILE.json
	$(BIN)/pip install --quiet --editable .[coverage]
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m benchmarks.covered $(if $(filter %.json,$(OUT)),--out $(OUT))

lint: env  ## style only: rules, a cap on complexity, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove the environment; runs/ and data/ stay
	rm -rf .venv
