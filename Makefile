# `make demo` and `make test` do everything on a fresh machine with Python 3.12; `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-soak docs lint lock bench bench-rl bench-quick bench-parts browser
BIN := .venv/bin
READY := .venv/.ready
LIBTPU := .venv/libtpu/.ready
QUIET := --quiet --disable-pip-version-check

# uv installs the lock in seconds. Where it cannot be had, or reaches no index, pip does the same in minutes.
define INSTALL
if $(BIN)/python -m pip install $(QUIET) $$(grep -E '^uv==[0-9.]+' requirements.lock | cut -d ' ' -f 1) && \
  $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock && \
  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .; then :; else \
  echo "uv could not install the packages; pip does it, which takes a few minutes." >&2; \
  $(BIN)/python -m pip install $(QUIET) -r requirements.lock && \
  $(BIN)/python -m pip install $(QUIET) --no-deps --editable .; fi
endef

help:  ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv from the lock file (rerun only when the lock or the package data changes)

$(READY): requirements.lock setup.cfg pyproject.toml
	@if [ -L .venv ]; then \
	  echo ".venv is a link to $$(readlink .venv), which others may use, and is older than the lock or the package data;" \
	    "run make setup there, or remove the link" >&2; exit 1; fi
	@python=; for name in python3.12 python3.13 python3 python; do \
	  if $$name -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then \
	    python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "aloe-jax needs Python 3.12 or 3.13 as python3.12, python3.13, python3 or python on the PATH;" \
	    "none was found. Install one and run make again." >&2; exit 1; fi; \
	echo "Setting up .venv with $$($$python --version)"; \
	$$python -m venv --clear .venv
	@$(INSTALL)
	@touch $@

demo: $(READY)  ## The whole line on a CPU with simulated people: runs/demo/report.html (about a quarter of an hour)
	@$(BIN)/python -m aloe_jax.demo --output runs/demo

# The compiler for TPUs, outside the environment: inside, JAX would look for a TPU at every start.
$(LIBTPU): requirements.libtpu.lock | $(READY)
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  $(BIN)/python -m pip install $(QUIET) --no-deps --upgrade --target .venv/libtpu \
	    -r requirements.libtpu.lock; \
	else mkdir -p .venv/libtpu; echo "libtpu exists for Linux on x86-64 only: tests that compile for TPUs are skipped"; fi
	@touch $@

check: lint  ## The minute before a commit: style, types, and quick tests of every package
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m quick --durations=0 --durations-min=5

test: $(READY) $(LIBTPU)  ## All tests, offline, on a CPU
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-soak: $(READY) $(LIBTPU)  ## Tests that take long by nature: thousands of bad inputs, repeated kills, full sizes
	@$(BIN)/python -m pytest -m soak -n 2 --dist worksteal

browser:  ## Install Chromium, with which the tests open the generated pages (Debian and its kin, as root)
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

docs: $(READY)  ## The documentation as a site: build/docs/index.html
	@$(BIN)/python docs/figures.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lint: $(READY)  ## Style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy aloe_jax datagen

bench: $(READY)  ## Training against TRL and Tunix, side by side (half an hour on a quiet machine; installs both)
	@$(BIN)/python -m tests.benchmarks.against_peers

bench-rl: $(READY)  ## On-policy RL against TRL and Tunix (a quarter of an hour on a quiet machine; installs both)
	@$(BIN)/python -m tests.benchmarks.rl_against_peers

bench-quick: $(READY)  ## Tree rows against our own padded pairs; fails below six times their speed
	@$(BIN)/python -m tests.benchmarks.quick

bench-parts: $(READY)  ## Parts by themselves: the head, the persona filter, remote calls, loading, digests, overheads of benchmark and RL
	@$(BIN)/python -m tests.benchmarks.head
	@$(BIN)/python -m tests.benchmarks.persona_filter
	@$(BIN)/python -m tests.benchmarks.remote_calls
	@$(BIN)/python -m tests.benchmarks.load_checkpoint
	@$(BIN)/python -m tests.benchmarks.save_digests
	@$(BIN)/python -m tests.benchmarks.benchmark_overhead
	@$(BIN)/python -m tests.benchmarks.rl_latency

lock: $(READY)  ## Resolve requirements.lock anew from setup.cfg
	@$(BIN)/uv pip compile setup.cfg --extra dev --universal --python-version 3.12 --no-emit-index-url \
	  --no-emit-find-links --no-header --quiet --upgrade -o requirements.lock
	@for kind in tpu:tpu cuda:tpu/gpu; do $(BIN)/uv pip compile setup.cfg --extra $${kind%:*} --extra wandb \
	  --constraint requirements.lock --python-version 3.12 --python-platform x86_64-manylinux_2_31 \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --upgrade \
	  -o $${kind\#*:}/requirements.lock; done
