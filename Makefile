# Everything runs in .venv, made from requirements.lock; nothing else needs installing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Containers often forbid bytecode: each process would compile all it imports anew, which takes 4 s of every run.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup run test aside test-long check bench soak pictures browser clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Headroom needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup  ## a minute of chat, streaming and vision against the simulated deployment, and the plan from it
	$(BIN)/headroom run $(ARGS)

# Tests that measure mostly wait. Those that do not depend on when things happen run beside them, below them in rank:
# in a session of their own, since Linux shares the cores between sessions before it looks at niceness.
test: setup browser  ## style, types and every test that takes seconds
	@beside=$$(mktemp); setsid sh -c '{ echo 19 >/proc/self/autogroup; } 2>/dev/null; exec nice -n 19 $(MAKE) aside' >$$beside 2>&1 & \
	trap "kill -- -$$!" INT TERM; \
	$(BIN)/pytest -m "not long and not aside" $(ARGS) || test $$? = 5; measured=$$?; \
	wait $$!; aside=$$?; cat $$beside; rm $$beside; exit $$((measured | aside))

aside: check
	$(BIN)/pytest -m "not long and aside" $(ARGS) || test $$? = 5

test-long: setup browser  ## the tests that take minutes
	$(BIN)/pytest -m long $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup  ## the figures of docs/measurements.md, each beside a peer or a limit
	@for program in $(filter-out benchmarks/soak.py,$(wildcard benchmarks/*.py)); do echo "== $$program"; $(BIN)/python $$program || exit 1; done

soak: setup  ## memory over half an hour of 200 streams; ARGS="--duration 6m" for less
	$(BIN)/python benchmarks/soak.py $(ARGS)

pictures: setup browser  ## those of the pages in docs/ anew, from real runs; ARGS="NAME ..." for some
	$(BIN)/python docs/pictures.py $(ARGS)

# The report is opened in a real browser. Root gets Chromium from the system's packages; others skip those tests by name.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || test "$$(id -u)" != 0 || \
	  ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; }

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
