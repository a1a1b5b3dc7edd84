# The front doors; each sets up .venv by itself when it is missing or older than the lock.
PYTHON ?= python3.11
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# DVC asks nothing over the network here: the embedded data's remote lies inside the clone.
export DVC_NO_ANALYTICS := 1
# Threads that spin only briefly while they wait: beside other work on the same cores, training is several times faster.
export GOMP_SPINCOUNT ?= 2000

.PHONY: repro tables test lab

repro: .venv/installed
	dvc pull data.dvc
	dvc repro

# Every table of the paper: the quick profile with all its rows. What `make repro` made is not made again.
tables: .venv/installed
	dvc pull data.dvc
	dvc exp run -S profile=full

test: .venv/installed
	dvc pull data.dvc
	ruff check .
	ruff format --check .
	pytest tests

lab: .venv/installed
	dvc pull data.dvc
	jupyter lab --config=scripts/jupyter_config.py

.venv/installed: requirements.lock
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --disable-pip-version-check -q -r requirements.lock
	.venv/bin/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	.venv/bin/python scripts/notebook_filter.py install
	touch $@
