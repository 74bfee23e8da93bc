# make train and make test are all that a newcomer needs; both set up .venv first, and again when what they need has changed.
export PYTHON PYTHONDONTWRITEBYTECODE=
BIN := .venv/bin
INPUTS := pyproject.toml constraints.txt scripts/setup.sh

.PHONY: help train test lint types demo clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

train: .venv/.ready ## train the default recipe and judge its edits
	$(BIN)/editkit train recipes/instructpix2pix.toml
	@echo 'next: make demo RUN=latest'

test: .venv/.ready-dev ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

lint: .venv/.ready-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready-dev ## ty: types of editkit and apps
	$(BIN)/ty check

demo: .venv/.ready ## try an editor in the browser: the shipped one, or RUN=latest
	$(BIN)/editkit demo edit $(if $(RUN),--run $(RUN))

clean: ## remove .venv and caches; runs/ and data/ stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

.venv/.ready: $(INPUTS)
	./scripts/setup.sh demo
	@touch $@

.venv/.ready-dev: $(INPUTS)
	./scripts/setup.sh dev
	@touch $@ .venv/.ready
