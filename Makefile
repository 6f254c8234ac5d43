# The one list of recipes; .ci/run calls the same ones. `make help` prints what stands after ##.
# Needs Rust, Python >= 3.9 and a C compiler. Everything else is installed, pinned, into .venv and target/.

PYTHON ?= python3
CARGO  ?= cargo
VENV   := .venv
PY     := $(VENV)/bin/python

DENY_VERSION := 0.20.2
DENY         := target/tools/bin/cargo-deny

# What a wheel is built from: touching none of these builds nothing.
RUST_SOURCES   := $(shell find crates -name '*.rs' -o -name '*.sql' -o -name Cargo.toml) Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find crates/nopokedb-python/python -name '*.py*' 2>/dev/null) pyproject.toml

# One set of features for tests, lints and docs, so that each dependency is compiled once per profile.
ALL := --workspace --all-features --locked

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-rust test-python check fmt-check clippy tidy stubs doc deny crash crash-rust crash-python power schedules schedules-quick soak fuzz \
  asan asan-python valgrind miri bench bench-full bench-kernels wheel clean

help: ## Print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.installed ## Build, then index real handwritten digits, query them, kill a writer, and lose nothing
	$(PY) demo/digits.py $(DEMO_ARGS)

test: test-rust schedules-quick test-python ## Run every Rust and Python test

test-rust:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  echo "cargo nextest run $(ALL)" && $(CARGO) nextest run $(ALL) && $(CARGO) test $(ALL) --doc; \
	else \
	  echo "cargo test $(ALL)" && $(CARGO) test $(ALL); \
	fi

test-python: $(VENV)/.installed
	$(PY) -m pytest

check: fmt-check clippy tidy doc stubs deny ## Formatting, lints, style, docs, Python stubs, licences: all without a warning

fmt-check:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings

tidy:
	$(CARGO) test --locked -p nopokedb --all-features --test tidy -- --quiet

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(ALL) --no-deps

stubs: $(VENV)/.installed
	$(PY) -m pytest --quiet crates/nopokedb-python/tests/test_stubs.py

# Advisories need a database from the network that no package registry serves; CI and this recipe do without it.
deny: $(DENY)
	$(DENY) --offline --locked check --hide-inclusion-graph bans licenses sources

$(DENY): # about two minutes, once
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --locked --debug --root target/tools cargo-deny@$(DENY_VERSION)

crash: crash-rust crash-python power schedules fuzz ## Over a million crash states and model operations, a thousand kills, every byte damaged, power cut, schedules, fuzzers

# Each suite prints lines "<what>: <how many> ..."; they are added up, and too few are a failure.
crash-rust:
	@mkdir -p target/crash-out
	bash -c 'set -o pipefail; NOPOKEDB_CRASH=long $(CARGO) test --locked --profile crash -p nopokedb --all-features \
	  --test crash --test model --test kill --test damage --test hostile --test fixtures --test import --test bound --test queries --no-fail-fast \
	  -- --nocapture 2>&1 | tee target/crash-out/rust.txt | grep -v "^ *[0-9]* "'
	bash -c 'set -o pipefail; NOPOKEDB_CRASH=long $(CARGO) test --locked --profile crash -p nopokedb --all-features --lib log::tests \
	  -- --nocapture 2>&1 | tee -a target/crash-out/rust.txt'
	@awk '{ for (i = 1; i < NF; i++) if ($$i ~ /^(crash-states|sqlite-states|fault-runs|model-operations|kills|damage-cases|hostile-files):$$/) sum[$$i] += $$(i + 1) } \
	  END { for (what in sum) print what, sum[what]; exit sum["crash-states:"] < 1000000 || sum["model-operations:"] < 1000000 || sum["kills:"] < 1000 }' \
	  target/crash-out/rust.txt

crash-python: $(VENV)/.installed
	NOPOKEDB_CRASH=long $(PY) -m pytest -o faulthandler_timeout=0 -s -k "sigkill or killed" crates/nopokedb-python/tests/test_processes.py crates/nopokedb-python/tests/test_readers.py

power: ## Cut the power of a writing process hundreds of times on ext4, XFS and Btrfs (needs root and loop devices; says so if they are missing)
	@mkdir -p target/crash-out
	bash -c 'set -o pipefail; NOPOKEDB_CRASH=long $(CARGO) test --locked --profile crash -p nopokedb --all-features --test power \
	  -- --nocapture --test-threads=1 | tee target/crash-out/power.txt'

SCHEDULES ?= 100000

schedules: ## Group commit, snapshots and the graph's lists under shuttle, SCHEDULES schedules of the commit queue, fewer of the rest
	cd schedules && NOPOKEDB_SCHEDULES=$(SCHEDULES) $(CARGO) test --locked --target-dir ../target --lib schedules:: -- --nocapture

schedules-quick: # that they compile, and hold in some
	$(MAKE) --no-print-directory schedules SCHEDULES=400

SOAK_SECONDS ?= 1800

soak: ## Half an hour of mixed load with kills: memory and open files flat, no lost row
	NOPOKEDB_SOAK=$(SOAK_SECONDS) $(CARGO) test --locked --profile crash -p nopokedb --all-features --test soak -- --nocapture

FUZZ_TARGETS := frame rows segment footer manifest image directory
FUZZ_SECONDS ?= 60
CARGO_FUZZ   := $(shell command -v cargo-fuzz 2>/dev/null || ls target/tools/bin/cargo-fuzz 2>/dev/null)

fuzz: ## Let fuzzers at every parser, FUZZ_SECONDS each (needs nightly Rust and cargo-fuzz; says so if they are missing)
	@if ! $(CARGO) +nightly --version >/dev/null 2>&1; then \
	  echo "fuzz: SKIPPED, no nightly Rust here (rustup toolchain install nightly); tests/hostile.rs ran without it"; \
	elif [ -z "$(CARGO_FUZZ)" ]; then \
	  echo "fuzz: SKIPPED, no cargo-fuzz here (cargo install --root target/tools cargo-fuzz); tests/hostile.rs ran without it"; \
	else for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/work/$$target && (cd fuzz && RUSTUP_TOOLCHAIN=nightly $(abspath $(CARGO_FUZZ)) run $$target work/$$target corpus/$$target \
	    -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -print_final_stats=1 2>&1 | grep -E "ERROR|panicked|SUMMARY|stat::number_of_executed|Test unit") ; \
	  if ls fuzz/artifacts/$$target/* >/dev/null 2>&1; then echo "fuzz: $$target FAILED, see fuzz/artifacts"; exit 1; fi; \
	done; fi

# Left out: the test of memory over queries, which would measure what the sanitizer keeps of freed memory.
asan: ## The Rust tests under AddressSanitizer (needs nightly Rust)
	@if ! $(CARGO) +nightly --version >/dev/null 2>&1; then \
	  echo "asan: SKIPPED, no nightly Rust here (rustup toolchain install nightly)"; \
	else RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 $(CARGO) +nightly test --locked \
	  -p nopokedb -p nopokedb-kernels --all-features --target $(shell rustc -vV | sed -n 's/^host: //p') --target-dir target/asan \
	  --lib --tests -- --skip tidy --skip memory_stays_flat; fi

ASAN_HOST   := $(shell rustc -vV | sed -n 's/^host: //p')
ASAN_DIR    := target/asan/python
# A Python that was built without the sanitizer needs its runtime before everything else: made of the archive that comes with the compiler.
ASAN_SOURCE := $(shell ls "$$(rustc +nightly --print sysroot 2>/dev/null)"/lib/rustlib/$(ASAN_HOST)/lib/librustc*_rt.asan.a 2>/dev/null)

asan-python: $(VENV)/.tools ## The Python tests with the extension under AddressSanitizer (Linux; needs nightly Rust and a C compiler)
	@if ! $(CARGO) +nightly --version >/dev/null 2>&1 || [ -z "$(ASAN_SOURCE)" ]; then \
	  echo "asan-python: SKIPPED, no nightly Rust with the sanitizer's runtime here (rustup toolchain install nightly)"; \
	elif ! command -v cc >/dev/null || ! command -v ar >/dev/null; then \
	  echo "asan-python: SKIPPED, no C compiler here"; \
	else set -e; \
	  RUSTFLAGS="-Zsanitizer=address" $(CARGO) +nightly build --locked -p nopokedb-python --target $(ASAN_HOST) --target-dir target/asan; \
	  rm -rf $(ASAN_DIR); mkdir -p $(ASAN_DIR); cp -r crates/nopokedb-python/python/nopokedb $(ASAN_DIR)/; \
	  cp target/asan/$(ASAN_HOST)/debug/lib_nopokedb.so $(ASAN_DIR)/nopokedb/_nopokedb.abi3.so; \
	  cp "$(ASAN_SOURCE)" $(ASAN_DIR)/runtime.a; ar d $(ASAN_DIR)/runtime.a asan_preinit.cpp.o; \
	  cc -shared -o $(ASAN_DIR)/runtime.so -Wl,--whole-archive $(ASAN_DIR)/runtime.a -Wl,--no-whole-archive -lpthread -ldl -lrt -lm; \
	  export PYTHONPATH=$(abspath $(ASAN_DIR)) LD_PRELOAD=$(abspath $(ASAN_DIR))/runtime.so PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1; \
	  export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1:abort_on_error=1; \
	  $(PY) -c "import nopokedb; assert '/$(ASAN_DIR)/' in nopokedb.__file__, nopokedb.__file__"; \
	  if ($(PY) -c "import ctypes as c; l = c.CDLL(None); l.free(c.c_void_p(8 + l.malloc(8)))") >/dev/null 2>&1; then \
	    echo "asan-python: the sanitizer does not notice a wrong free"; exit 1; fi; \
	  $(PY) -m pytest -o faulthandler_timeout=0 crates/nopokedb-python/tests $(ASAN_ARGS); fi

VALGRIND := valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
# What has `unsafe` or threads without locks under it, and every verb of the API. Valgrind does not know AVX-512: kernels take AVX2.
VALGRIND_UNITS := vectors:: commit:: io::mmap io::lock index::topk index::hnsw::graph index::hnsw::packed log::format log::tests::lifecycle

valgrind: ## The kernels, the structures without locks and every verb under valgrind (says so if it is missing)
	@if ! command -v valgrind >/dev/null; then echo "valgrind: SKIPPED, not installed here (apt install valgrind)"; \
	else set -e; \
	  export CARGO_TARGET_$(shell rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)_RUNNER="$(VALGRIND)"; \
	  $(CARGO) test --locked -p nopokedb-kernels --lib --test codes --test floats -- --test-threads=1; \
	  $(CARGO) test --locked -p nopokedb --all-features --lib -- --test-threads=1 $(VALGRIND_UNITS); \
	  $(CARGO) test --locked -p nopokedb --all-features --test verbs -- --test-threads=1; fi

miri: ## The kernels' scalar twins and the lock-free structures under Miri (says so if Miri is missing)
	@if ! $(CARGO) +nightly miri --version >/dev/null 2>&1; then \
	  echo "miri: SKIPPED, not installed here (rustup +nightly component add miri)"; \
	else MIRIFLAGS="-Zmiri-disable-isolation" $(CARGO) +nightly miri test --locked -p nopokedb --lib -- \
	  vectors::chunked commit:: log::format log::frame; fi

bench: $(VENV)/.installed ## Measure against peers at 20,000 and 50,000 rows, in minutes; writes docs/BENCHMARKS.md
	$(PY) bench/run.py $(BENCH_ARGS)

bench-full: $(VENV)/.installed ## The same up to 1,000,000 rows, in hours
	$(PY) bench/run.py --full $(BENCH_ARGS)

bench-kernels: ## Time each kernel against what this machine can do, in a minute; writes docs/KERNELS.md
	$(CARGO) run --release --locked -p nopokedb-kernels --example kernels > target/kernels.md
	mv target/kernels.md docs/KERNELS.md

wheel: target/wheels/.built ## Build the Python wheel into target/wheels

clean: ## Remove everything that was built or installed
	rm -rf target $(VENV) bench/.venvs demo_out

# ------------------------------------------------------------------------------------------------ what is built once

$(VENV)/.tools: requirements-dev.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

target/wheels/.built: $(VENV)/.tools $(RUST_SOURCES) $(PYTHON_SOURCES)
	@mkdir -p target/wheels && rm -f target/wheels/nopokedb-*.whl
	$(VENV)/bin/maturin build --release --locked --out target/wheels --interpreter $(PY)
	@touch $@

$(VENV)/.installed: target/wheels/.built
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall target/wheels/nopokedb-*.whl
	@touch $@
