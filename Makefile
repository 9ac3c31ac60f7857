# SPDX-License-Identifier: Apache-2.0
# make demo    set everything up, migrate a live guest, show a report
# make test    the same set-up, then every test, with TCG and with KVM
#
# Every goal is incremental: things are built into the cache (CPC_CACHE, by
# default ~/.cache/cpc) under a digest of what they are made from.

CACHE := $(if $(CPC_CACHE),$(abspath $(CPC_CACHE)),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cpc)
export CPC_CACHE := $(CACHE)
SETUP := /usr/bin/python3 -m
# Of this checkout, whichever was set up last.
PYTHON = $(shell $(SETUP) cpcctl.setup.venv --print)/bin/python
ARGS ?=

.PHONY: help demo bench bench-kvm bench-snp test test-fast test-fresh test-kvm test-long lint setup packages venv qemu firmware guest ovmf clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'also:        test-fast test-kvm test-long test-fresh bench bench-kvm bench-snp lint, and packages venv qemu firmware guest ovmf alone'

packages:
	@$(SETUP) cpcctl.setup.packages

venv: packages
	@$(SETUP) cpcctl.setup.venv

qemu: packages
	@sh patches/qemu/build.sh

firmware: packages
	@$(SETUP) cpcctl.setup.firmware

guest: packages
	@$(SETUP) cpcctl.demo.image

ovmf: packages
	@$(SETUP) cpcctl.setup.ovmf

# What takes longest comes last: what cannot be fetched or compiled shows before.
setup: packages venv firmware guest ovmf qemu

demo: setup
	@$(PYTHON) -m cpcctl demo $(ARGS)

bench: setup
	@$(PYTHON) -m cpcctl bench $(ARGS)

# Files of tests side by side, and beside them the run with KVM: most tests wait for one VM, which
# has one core at work. Their time limits are longer then. With ARGS only what they choose, one
# after the other; the run with KVM has its own, test-kvm ARGS=...
test: export CPC_TEST_PATIENCE ?= $(if $(ARGS),1,3)
test: setup
	@$(if $(ARGS),$(PYTHON) -m pytest tests $(ARGS),$(MAKE) -s -k -j2 test-tcg test-kvm-beside)

.PHONY: test-tcg test-kvm-beside
test-tcg:
	@$(PYTHON) -m pytest tests -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# What it says comes in one piece at its end.
test-kvm-beside: LOG = $(CACHE)/log/test-kvm.log
test-kvm-beside:
	@mkdir -p $(dir $(LOG))
	@$(PYTHON) -m tests.nested.kvm test >$(LOG) 2>&1; status=$$?; cat $(LOG); exit $$status

test-kvm: setup
	@$(PYTHON) -m tests.nested.kvm test $(ARGS)

bench-kvm: setup
	@$(PYTHON) -m tests.nested.kvm bench $(ARGS)

bench-snp: setup
	@$(PYTHON) -m tests.snp.bench $(ARGS)
	$(if $(ARGS),,@$(PYTHON) -m tests.snp.bench_migration)

test-fast: setup
	@$(PYTHON) -m pytest tests -m 'not slow' $(ARGS)

# Its slowest tests take hours; a hang is dumped after 4 of them.
test-long: setup
	@$(PYTHON) -m pytest tests --long -o faulthandler_timeout=14400 $(ARGS)

# On bare systems of both releases; as root, an hour or two.
test-fresh:
	@$(SETUP) tests.fresh.run $(ARGS)

lint: venv
	@$(PYTHON) -m pytest tests/lint $(ARGS)

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache
