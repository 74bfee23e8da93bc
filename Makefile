# Two commands: make train, make test. Everything else is for those who work on editkit.
export PYTHONDONTWRITEBYTECODE=
PY := .venv/bin/python
INPUTS := pyproject.toml constraints.txt scripts/setup.sh

.PHONY: train test lint types demo clean

train: .venv/.ready
	.venv/bin/editkit train recipes/instructpix2pix.toml

test: .venv/.ready-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadscope

lint: .venv/.ready-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: .venv/.ready-dev
	.venv/bin/ty check

demo: .venv/.ready-dev
	.venv/bin/editkit demo edit

clean:
	rm -rf .venv runs data .pytest_cache .ruff_cache .hypothesis

.venv/.ready: $(INPUTS)
	PYTHON="$(PYTHON)" ./scripts/setup.sh
	@touch $@

.venv/.ready-dev: $(INPUTS)
	PYTHON="$(PYTHON)" ./scripts/setup.sh dev
	@touch $@ .venv/.ready
