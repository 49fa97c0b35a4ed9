# Two commands matter: `make demo` shows what p2pd does, `make test` runs every test.
# `make bench` measures how fast it is; see docs/performance.md.
# All make their own virtual environment in .venv.

PYTHON ?= python3
# Most tests wait for daemons: more of them at once than there are cores.
JOBS ?= 6
BIN := .venv/bin

# Compiled files go into .venv too: `make demo` leaves nothing else behind.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache

.PHONY: demo test bench bench-swarm fuzz lint types reference clean

demo: .venv/run-time.stamp
	@$(BIN)/python tools/demo.py

test: .venv/test.stamp
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# Everything, into docs/performance.md; or a part: make bench ARGS='--only client'
bench: .venv/bench.stamp
	$(BIN)/python -m benchmarks.bench $(or $(ARGS),--publish)

# One owner, many receivers, on links of a known rate; as root.
bench-swarm: .venv/bench.stamp
	$(BIN)/python -m benchmarks.wires $(or $(ARGS),--publish)

# Looks for input that breaks a parser, for so many seconds.
fuzz: .venv/fuzz.stamp
	$(BIN)/python -m tests.fuzz.run $(or $(FUZZ_SECONDS),600)

lint: .venv/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/test.stamp
	$(BIN)/mypy
	$(BIN)/mypy tools

# Man pages and completions, to be committed: a test fails where they are not those of the code.
reference: .venv/test.stamp
	$(BIN)/python tools/reference.py

clean:
	rm -rf .venv .fuzz build dist p2pd.egg-info .mypy_cache .ruff_cache .hypothesis twisted/plugins/dropin.cache

.venv/run-time.stamp: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@rm -rf p2pd.egg-info
	@touch $@

.venv/test.stamp: .venv/run-time.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	@rm -rf p2pd.egg-info
	@touch $@

.venv/bench.stamp: .venv/run-time.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@rm -rf p2pd.egg-info
	@touch $@

.venv/fuzz.stamp: .venv/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	@rm -rf p2pd.egg-info
	@touch $@
