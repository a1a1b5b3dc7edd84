# The front doors; each sets up .venv by itself when it is missing or older than the lock.
PYTHON ?= python3.11
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# DVC asks nothing over the network here: the remote of the embedded data and the weights lies inside the clone.
export DVC_NO_ANALYTICS := 1
# Threads that wait spin only briefly, which beside other work on the same cores makes training several times faster;
# long enough, though, not to sleep at every layer (a step of the heatmap network took a sixth longer at 2000).
export GOMP_SPINCOUNT ?= 20000
# Large tensors come from memory that the process keeps, not fresh from the system each time: a training step takes a
# fifth less on a CPU, to the same bits (glibc; others ignore it).
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 68719476736

.PHONY: repro tables release experiments report check test bench lab

repro: .venv/installed
	dvc pull data.dvc released.dvc
	python scripts/pipeline.py

# Every table of the paper, of the data set and profile that this working copy runs. What was made is not made again.
tables: .venv/installed
	dvc pull data.dvc released.dvc
	python scripts/configure.py tables=all
	python scripts/pipeline.py

# A model like the one that comes with the project, from nothing but data/: the first of that one's nine rounds
# (docs/model-card.md). This working copy runs its profile then.
release: .venv/installed
	dvc pull data.dvc
	python scripts/configure.py dataset=synthetic profile=release
	python scripts/pipeline.py evaluate
	python scripts/release.py

# Experiments side by side, in the few columns that tell them apart: DVC's own table has hundreds.
experiments: .venv/installed
	dvc exp show --only-changed --keep 'run\.|full\.' \
	  --drop '(metrics|artifacts|notebooks|agego_lib)/.*|(egopw|sceneego|transfer|actions|chance|test_accuracy)\b.*'

# One page of tables and figures from what was run, which opens from disk: reports/results.html
report: .venv/installed
	python scripts/report.py

# Two processes of one thread each, as tests are small; each takes the next file when it is done with one.
PYTEST = env -u MALLOC_MMAP_MAX_ -u MALLOC_TRIM_THRESHOLD_ OMP_NUM_THREADS=1 pytest tests -q -n 2 --dist loadfile \
  --no-loadscope-reorder
LINT = ruff check . && ruff format --check . && ty check --quiet

# Lint, types and the quick unit tests.
check: .venv/installed
	$(LINT)
	$(PYTEST) -m "not slow"

# All tests.
test: .venv/installed
	dvc pull data.dvc released.dvc
	$(LINT)
	$(PYTEST)

# Speed and memory on this machine, which should do nothing else meanwhile, and docs/scaling.md from it.
BENCHMARKS ?= training inference prediction reading growth views methods
bench: .venv/installed
	set -e; for name in $(BENCHMARKS); do python -m benchmarks.$$name; done
	python -m benchmarks.scaling_page

lab: .venv/installed
	dvc pull data.dvc released.dvc
	JUPYTER_CONFIG_PATH=$(CURDIR)/jupyter jupyter lab

.venv/installed: requirements.lock
	@test ! -L .venv || { echo ".venv is a link: what it points to would be emptied. Remove the link, or run 'touch .venv/installed' to use it as it is" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --disable-pip-version-check -q -r requirements.lock
	.venv/bin/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	.venv/bin/python scripts/notebook_filter.py install
	touch $@
