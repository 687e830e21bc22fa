# Everything a developer runs. `make demo` and `make test` work from a fresh clone.
#
# Needs: Python 3.11 or later with venv, cargo, make. PYTHON=/path/python3.12 chooses another interpreter.

PYTHON ?= python3
# Outside the clone, so that a new clone does not build everything again; works cold as well.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/nexus/target

VENV     := .venv
BIN      := $(VENV)/bin
BINARIES := nexusd nexus-vmm nexus-store
NATIVE   := python/nexus/guest/device/_native.abi3.so

.DEFAULT_GOAL := help
.PHONY: help setup binaries demo test test-rust test-python test-hw conformance package-tests transparency crash fairness fuzz lint format bench docs wheel lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.package ## virtual environment, release binaries, the package installed for development

$(VENV)/.tools: requirements/dev.lock requirements/venv.sh
	@sh requirements/venv.sh "$(PYTHON)" $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

# cargo decides what is out of date; binaries that did not change keep their time. (make -j2 setup installs the tools meanwhile.)
binaries: ## build nexusd, nexus-vmm, nexus-store and the guest's module, and put them into the package
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.95 or later (package cargo, or rustup)" >&2; exit 1; }
	@sh tools/binaries.sh
	@mkdir -p python/nexus/_bin
	@for b in $(BINARIES); do \
	  cmp -s "$(CARGO_TARGET_DIR)/release/$$b" python/nexus/_bin/$$b || \
	  install -m 0755 "$(CARGO_TARGET_DIR)/release/$$b" python/nexus/_bin/$$b; done
	@cmp -s "$(CARGO_TARGET_DIR)/release/libnexus_guest.so" $(NATIVE) || \
	  install -m 0755 "$(CARGO_TARGET_DIR)/release/libnexus_guest.so" $(NATIVE)

$(VENV)/.package: pyproject.toml $(VENV)/.tools | binaries
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup ## photographs in, thumbnails out: the whole system at work, under a minute
	@$(BIN)/nexus demo

test: setup test-rust test-python ## all tests but the hardware lane

# The node's crates without optimisation: a third of the time to compile, and what is published runs in the Python tests.
UNOPTIMISED := $(foreach crate,nexus-backend nexusd nexus-store,--config 'profile.release.package.$(crate).opt-level=0')

# The hypervisor's as it is built for use, so that nothing of it is compiled twice.
test-rust: setup
	cargo test --release --locked $(UNOPTIMISED) --workspace --exclude nexus-vmm --exclude nexus-personality --exclude nexus-guest
	sh tools/static.sh test -p nexus-vmm -p nexus-personality

# A file's tests share a node, and run one at a time.
JOBS ?= 2
test-python: setup
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

test-hw: setup ## the hypervisor under kvm_amd, in QEMU with emulated SVM
	$(BIN)/python tools/hwlane

# CPython's, numpy's and Pillow's own tests, on this machine's kernel and in microVMs. SUITES=cpython runs one of them.
conformance: setup ## suites that others wrote, inside against outside
	$(BIN)/python tools/conformance $(SUITES)

# KILLS=100 does fewer. Every test run has a sample of 20.
KILLS ?= 1000
crash: setup ## kill nexusd a thousand times over a mixed load, and see that it kept its word
	$(BIN)/python tests/crash $(KILLS)

fairness: setup ## what a greedy instance costs its neighbours
	NEXUS_FAIRNESS=1 $(BIN)/python -m pytest -s tests/network/test_fairness.py

# Sources are fetched for it. PACKAGES=requests runs one of them.
package-tests: PACKAGES = requests urllib3 s3transfer
package-tests: setup ## these packages' own tests, natively and in a function with the shims
	$(BIN)/python tools/conformance $(PACKAGES)

# Each fuzzer for MINUTES; SEED, ONLY=guest,elf,snapshot,http,arena. A finding is kept under fuzz-findings.
fuzz: setup ## random system calls in microVMs, mutated programs, snapshots, arenas and HTTP (MINUTES=10 each)
	$(BIN)/python tools/fuzz
	NEXUS_ALL_PORTS=1 $(BIN)/python -m pytest tests/security/test_machine.py -k every_port

# Large downloads, a stand-in for AWS's services, a 2 GiB object, more sequences: minutes, where the tests take a sample.
transparency: setup ## the same programs natively and in instances, all of them
	NEXUS_ECOSYSTEM=1 NEXUS_LARGE_MIB=2048 NEXUS_SEQUENCES=200 $(BIN)/python -m pytest tests/transparency
	NEXUS_LARGE_MIB=1024 $(BIN)/python -m pytest tests/web/test_reach.py

lint: setup ## formatters, linters and type checker, as CI runs them
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## rewrite all sources in the common format
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

bench: setup ## the published measurements
	@$(BIN)/nexus bench fabric
	@$(BIN)/nexus bench cold
	@$(BIN)/nexus bench memory
	@$(BIN)/nexus bench compute
	@$(BIN)/nexus bench density
	@$(BIN)/nexus bench prefetch
	@$(BIN)/nexus bench writes
	@$(BIN)/nexus bench ladder

docs: setup ## the pages that are made from the code
	@$(BIN)/nexus doctor --syscalls --markdown > docs/syscalls.md
	@python/nexus/_bin/nexus-vmm jail > docs/jail.md

wheel: setup ## the wheel to publish, in dist/
	@rm -rf dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
	@ls -l dist

lock: setup ## resolve the pinned requirements anew
	@sh requirements/lock.sh $(BIN)/uv

clean: ## remove what was built here (the shared target folder stays)
	rm -rf $(VENV) dist python/nexus/_bin .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
