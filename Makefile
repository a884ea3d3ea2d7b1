# `make demo` and `make test` install what they need into .venv first; nothing else is asked of you but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --constraint constraints.txt

# Two processes of one thread each do more than one of two threads, and sums stay the same; only the base trains with all cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test lint format laptop ablation soak engine conformance layouts sharded pages peers benchmark install constraints clean
.DEFAULT_GOAL := help

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(STAMP) ## The whole method in about ten minutes on two cores; ends with the table and the report's path
	@$(BIN)/insightv demo

test: $(STAMP) ## All tests but the slow ones
	@$(BIN)/python -m pytest -q -n $(JOBS)

lint: $(STAMP) ## ruff, its formatter, and mypy in strict mode
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet --diff .
	@$(BIN)/mypy

format: $(STAMP) ## Let ruff put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

laptop: $(STAMP) ## All rows of the table, under half an hour a seed
	@$(BIN)/insightv run configs/laptop.yaml

ablation: $(STAMP) ## The paper's ablation over three seeds, into docs/results.md: the core in about two hours on two cores, all of it in about six
	@$(BIN)/insightv ablate configs/ablation.yaml --cell core --out docs/results.md
	@$(BIN)/insightv ablate configs/ablation.yaml --out docs/results.md

soak: $(STAMP) ## Kill the demo at 20 random moments, start it again each time, and compare its bytes with an undisturbed run's
	@$(BIN)/python -m pytest -q -s -m slow tests/soak/test_kills.py

engine: $(STAMP) ## Kill the data engine at 50 random moments, fill its disk, send it bad weather; kill its workers where there is Ray: minutes
	@$(BIN)/python -m pytest -q -s -m slow -rs tests/soak/test_engine.py tests/soak/test_engine_weather.py tests/soak/test_engine_workers.py

conformance: $(STAMP) ## A real server: SERVER='vllm serve {path} --port {port} --served-model-name tiny-{revision} ..'; lmms-eval: HARNESS=PYTHON; VLMEvalKit: and VLMEVALKIT=FOLDER; published rules: OFFICIAL=FOLDER
	@CONFORMANCE_SERVER='$(SERVER)' CONFORMANCE_HARNESS='$(HARNESS)' CONFORMANCE_VLMEVALKIT='$(VLMEVALKIT)' CONFORMANCE_OFFICIAL='$(OFFICIAL)' \
	  $(BIN)/python -m pytest -q -s -m slow -rs tests/conformance/test_server.py tests/conformance/test_serving.py tests/conformance/test_lmms_eval.py \
	  tests/conformance/test_vlmevalkit.py tests/conformance/test_marks.py

layouts: $(STAMP) ## Exported data sets in the loaders of the trainers they are for: LOADERS=PYTHON, of an environment with these
	@CONFORMANCE_LOADERS='$(LOADERS)' $(BIN)/python -m pytest -q -m slow -rs tests/conformance/test_layouts.py

sharded: $(STAMP) ## Trainings by FSDP2, and by ZeRO-3 where DeepSpeed is installed, on processors (ten minutes)
	@$(BIN)/python -m pytest -q -m 'slow or not slow' -rs -n $(JOBS) tests/training/test_sharded.py

pages: $(STAMP) ## The pages in a headless Chromium (apt install chromium): PAGES_RUN=RUN talks to that run's pair, PAGES_SHOTS=FOLDER keeps pictures
	@$(PIP) playwright
	@$(BIN)/python -m pytest -q -rs tests/serving/test_pages.py

peers: $(STAMP) ## Other engines, each in an environment of its own, for `make benchmark`
	@$(BIN)/python -m benchmarks.engine --install-peers peers

benchmark: $(STAMP) ## The data engine beside a floor, an ideal and its peers; writes docs/benchmarks.md (an hour)
	@$(BIN)/python -m benchmarks.engine --peers peers --engines floor ours ray datatrove curator \
	  --scenarios weather poison capacity down broken kill memory --plot docs/engine.svg --write docs/benchmarks.md

install: $(STAMP) ## Only make .venv

# torch goes first and alone, so that nothing else can choose another build of it; the stamp is written last, so that a broken
# installation is tried again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}. Say which: make PYTHON=python3.12")'
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch 2.13.0 into $(VENV) (once; minutes on a slow line)"
	@$(PIP) torch==2.13.0
	@echo "Installing insightv and the rest"
	@$(PIP) --editable '.[dev]'
	@touch $@

constraints: $(STAMP) ## Pin what .venv holds now
	@{ echo '# What `make test` ran with: a fresh environment gets these versions. Remade with `make constraints`.'; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new && mv constraints.new constraints.txt
	@touch $(STAMP)

clean: ## Remove .venv and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
