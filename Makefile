# Every target does its own set-up, in .venv (bench in .venv-bench). PYTHON=python3.12 chooses the interpreter, ARGS="-k lstm" goes to
# the program that a target runs.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SUITE := -m pytest -n auto
PEERS ?= bench
# Tests that do not depend on the level, or run every level themselves.
LEVELLESS := $(patsubst %,--ignore=tests/test_%.py,activations adding_a_cell arguments bench bench_swap demo docs hostile house malformed reference threads types)
# Tests of wings, which reach the kernels through the public functions alone: neither level by level nor under sanitizers.
WINGED := $(patsubst %,--ignore-glob='tests/test_%.py',certify compat_* decode flow gallery identify layers parallel streams structures truncated weights witness)
# Tests of numbers and words, which reach no memory that others do not, and those that guard it by themselves.
NUMBERED := $(patsubst %,--ignore=tests/test_%.py,accuracy activations adding_a_cell bench bench_swap demo docs guard house reference types)
# Without the tests marked `definition`: they run the reference alone, which no level and no sanitizer changes.
COMPILED := -m "not definition"
# Tests that run beside other libraries are marked; each skips, with the reason, without them.
PEERED := $(shell grep -l mark.beside tests/test_*.py)
STUBBED := $(patsubst fastgate/%.pyi,fastgate.%,$(wildcard fastgate/[a-z]*.pyi))

# The reference multiplies small matrices: BLAS threads would only wait for each other.
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help demo gallery test peers bench lint types sanitize races model levels arm64 build wheel clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help:  ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: build $(VENV)/has-demo  ## train a character model on English text: C kernels beside NumPy
	$(RUN) -m fastgate demo $(ARGS)

gallery: build $(VENV)/has-demo  ## run the lessons of examples/gallery, each claim checked, and build one page of them
	$(RUN) examples/gallery $(ARGS)

test: build $(VENV)/has-test  ## build, then all tests
	$(RUN) $(SUITE) $(ARGS)

bench: build .venv-bench/has-$(PEERS)  ## speed beside PyTorch, ONNX Runtime, OpenVINO and NumPy; PEERS=bench-all: JAX and Keras, too
	.venv-bench/bin/python -m bench $(ARGS)

peers: build  ## the drop-ins beside PyTorch, Keras, ONNX, JAX, autograd and MPI, where these can be had
	@$(MAKE) --no-print-directory .venv-peers/has-peers || { echo "skipped: the peers could not be installed"; exit 0; }; \
	[ ! -e .venv-peers/has-peers ] || .venv-peers/bin/python $(SUITE) -rs -m beside $(PEERED) $(ARGS)

lint: $(VENV)/has-lint  ## ruff: rules and formatting
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

types: build $(VENV)/has-lint  ## mypy on the package and on a typed user's file; stubs against the code
	$(RUN) -m mypy.stubtest --concise --mypy-config-file pyproject.toml $(STUBBED) & stubs=$$!; red=0; \
	$(RUN) -m mypy || red=1; $(RUN) -m mypy --strict --follow-imports=silent tests/typed_usage.py || red=1; wait $$stubs || red=1; exit $$red

# A build of its own in build/sanitize, which PYTHONPATH puts before the one in fastgate/.
sanitize: build $(VENV)/has-test  ## the tests that reach memory under AddressSanitizer and UndefinedBehaviorSanitizer
	FASTGATE_SANITIZE=1 $(RUN) setup.py -q build --build-base build/sanitize --build-lib build/sanitize/lib --build-temp build/sanitize/objects
	$(RUN) tests/selftest.py --sanitize address --objects build/sanitize/objects/csrc gcc
	FASTGATE_CASES=$${FASTGATE_CASES-2} FASTGATE_MALFORMED=$${FASTGATE_MALFORMED-20} \
	FASTGATE_CALLS=$${FASTGATE_CALLS-1000} FASTGATE_FORKS=$${FASTGATE_FORKS-10} FASTGATE_CTRL_C=$${FASTGATE_CTRL_C-1} \
	FASTGATE_DRAWS=$${FASTGATE_DRAWS-4} PYTHONPATH="$(CURDIR)/build/sanitize/lib:$(CURDIR)" PYTHONSAFEPATH=1 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	$(RUN) $(SUITE) $(COMPILED) $(WINGED) $(NUMBERED) $(ARGS)

races: build  ## the team of threads and shared kernels under ThreadSanitizer, by gcc and by clang
	$(RUN) tests/selftest.py --sanitize thread gcc clang

model:  ## the protocol of the threads, by the model checker spin
	$(PYTHON) tests/model.py

levels: build $(VENV)/has-test  ## the kernels at each instruction-set level of this CPU below the best, at which `make test` runs
	$(RUN) tests/selftest.py gcc clang
	red=0; for level in $$($(RUN) -c 'import fastgate; print(*fastgate.get_config()["isa_levels"][1:])'); do \
	    echo "FASTGATE_ISA=$$level"; FASTGATE_ISA=$$level FASTGATE_CASES=$${FASTGATE_CASES-16} FASTGATE_MALFORMED=$${FASTGATE_MALFORMED-50} \
	    FASTGATE_CALLS=$${FASTGATE_CALLS-1000} FASTGATE_FORKS=$${FASTGATE_FORKS-10} FASTGATE_CTRL_C=$${FASTGATE_CTRL_C-1} $(RUN) $(SUITE) $(COMPILED) $(LEVELLESS) $(WINGED) $(ARGS) || red=1; done; exit $$red

arm64: build  ## the C core for arm64 under qemu: the bits of avx2 and avx512
	$(RUN) tests/selftest.py gcc aarch64

build: $(VENV)/installed  ## compile what changed
	@$(RUN) setup.py -q build_ext --inplace

wheel: $(VENV)/ready  ## sdist and wheel in dist/, the wheel built from the sdist, installed and tried
	rm -rf dist build/wheel
	$(RUN) setup.py -q sdist
	$(RUN) -m pip -q wheel --no-deps --wheel-dir dist dist/fastgate-*.tar.gz
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip -q install dist/fastgate-*.whl
	cd build/wheel && bin/python ../../tests/wheel.py ../../dist/fastgate-*.whl

clean:  ## remove what was built (the environments stay: rm -rf .venv .venv-bench .venv-peers)
	rm -rf build dist *.egg-info fastgate/*.so fastgate/_kernels.c .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# ---- The environments; what they hold is listed in pyproject.toml ----

BUILD_NEEDS = $(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
needs_of = $(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$(1)"], sep="\n")'

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fastgate needs Python 3.11 or later: make PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian: apt install python3-venv python3-dev"; exit 1; }
	@$(BUILD_NEEDS) > $(VENV)/needs.txt && $(RUN) -m pip -q install -r $(VENV)/needs.txt
	@touch $@

# A path file, as pip's -e is, but that would compile all that build compiles.
$(VENV)/installed: $(VENV)/ready
	@echo "$(CURDIR)" > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fastgate.pth"
	@touch $@

$(VENV)/has-%: $(VENV)/ready
	@$(call needs_of,$*) > $(VENV)/needs-$*.txt && $(RUN) -m pip -q install -r $(VENV)/needs-$*.txt
	@touch $@

# The extra bench-all names the extra bench of this very package, which is installed before it.
.venv-bench/has-%: $(VENV)/ready
	@$(PYTHON) -m venv .venv-bench
	@$(call needs_of,$*) | sed '/^fastgate/d' > .venv-bench/needs-$*.txt
	.venv-bench/bin/python -m pip -q install numpy -r .venv-bench/needs-$*.txt
	@touch $@

.venv-bench/has-bench-all: .venv-bench/has-bench

.venv-peers/has-peers: $(VENV)/ready pyproject.toml
	@$(PYTHON) -m venv .venv-peers
	@{ $(call needs_of,test); $(call needs_of,peers); } > .venv-peers/needs.txt
	.venv-peers/bin/python -m pip -q install --no-compile numpy -r .venv-peers/needs.txt
	@touch $@
