# make build         .venv with the command .venv/bin/ovspane        make deps      Debian packages (root; else says which)
# make demo          the guided tour on a real Open vSwitch           make test      check + check-system
# make check         unit, property, traces: no root, no switch but the dummy datapath
# make check-system  root: the userspace datapath, Mininet, scapy     make check-kernel  the same and HTB, kernel datapath
# make check-kernel-short  a part of that, in some minutes      make measure  the guarantees in docs/measurements.md, anew
# make check-network only what is about topologies: discovery, placement, room on links, failures; the line and the ring on the
#                    kernel datapath, too, where there is one   (PLACEMENT=paths: rules by paths wherever a test does not say; for
#                    check-system, too)
# make chaos    faults at random under load, on the dummy datapath, for hours: ROUNDS=10000 SEED=… LAYOUT=flat|ring
#                    FAULTS='kill daemon,disk full' REPORT=FILE.json; exit status 1 with the round to play again
# make check-cluster only the part of check-system about three hosts on one clustered database
# make lint          ruff (rules and format), mypy, vulture, the layer and header tests   make clean
# make bench         figures of this machine, and build/bench.json (BENCH='compile index …': only these groups;
#                    BENCH='--document docs/measurements.md': into their sections there)
# make man           build/man: the manual pages, also as HTML and plain text
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The first interpreter that is 3.11 or later; PYTHON=... overrides. Debian's own comes first: it is the one our users have
# (and Debian 12's 3.11.2 differs, e.g. in possessive quantifiers of re). Looked up when used: `deps` may install it.
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.11 python3.12 python3.13; do \
	  "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
STAMP := $(VENV)/.installed
PYTEST := $(VENV)/bin/pytest
export PIP_DISABLE_PIP_VERSION_CHECK := 1

build: deps $(STAMP)

deps:
	@tools/debian-packages build run test

$(STAMP): pyproject.toml setup.py $(shell find ovspane -name "*.pyx" -o -name "*.pxd")
	@test -n "$(PYTHON)" || { echo "make build: no python3 of 3.11 or later with venv; see make deps" >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -e '.[test,lint,docs]'
	@touch $@

TIERS = $(wildcard tests/unit tests/property tests/traces tests/switch)
check: build
	$(PYTEST) -q -n auto --dist worksteal $(TIERS)

# First what counts lost packets, alone; then the rest in two sandboxes beside each other: most of it waits.
SYSTEM := $(wildcard tests/system/test_*.py)
SYSTEM_ALONE := $(patsubst %,tests/system/test_%.py,churn daemon_restart daemon_verdicts discovery_harmless lab placement_trust)
SYSTEM_A := $(patsubst %,tests/system/test_%.py,probe probe_paths flood_tree queues_tc)
SYSTEM_B := $(filter-out $(SYSTEM_ALONE) $(SYSTEM_A),$(SYSTEM))
check-system: build
	lab/sandbox $(PYTEST) -q $(SYSTEM_ALONE)
	$(MAKE) -j2 -Otarget check-system-a check-system-b

check-system-a:
	lab/sandbox $(PYTEST) -q -p no:cacheprovider $(SYSTEM_A)

check-system-b:
	lab/sandbox $(PYTEST) -q -p no:cacheprovider $(SYSTEM_B)

check-network: build
	lab/sandbox $(PYTEST) -q $(wildcard tests/system/test_discovery*.py) tests/system/test_placement.py \
		tests/system/test_placement_trust.py tests/system/test_probe_paths.py tests/system/test_proof.py \
		tests/system/test_flood_tree.py
	lab/kernel $(PYTEST) -q -s tests/kernel/test_network.py tests/kernel/test_ring.py || { status=$$?; \
		test $$status = 77 && echo "kernel datapath: SKIPPED, nothing was proven there (reasons above)" || exit $$status; }

check-cluster: build
	lab/sandbox $(PYTEST) -q $(wildcard tests/system/test_cluster*.py)

ROUNDS ?= 10000
SEED ?= $(shell shuf -i 1-999999 -n 1)
LAYOUT ?= flat
FAULTS ?=
REPORT ?= build/chaos-$(LAYOUT)-$(SEED).json
chaos: build
	@mkdir -p build
	$(VENV)/bin/python -m tests.chaos --layout $(LAYOUT) --rounds $(ROUNDS) --seed $(SEED) --faults '$(FAULTS)' --report $(REPORT)

check-kernel: build
	lab/kernel $(PYTEST) -q tests/system $(wildcard tests/kernel)

check-kernel-short: build
	tools/check-kernel-short

measure: build
	lab/kernel $(VENV)/bin/python -m tests.kernel.measure docs/measurements.md
	lab/sandbox $(VENV)/bin/python -m tests.kernel.measure docs/measurements.md

test: check check-system

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/vulture
	$(PYTEST) -q tests/unit/test_layers.py tests/unit/test_headers.py

man: build
	$(VENV)/bin/python -m tools.manual build/man

# DATAPATH=auto|kernel|userspace; SHELL_AFTER=1 leaves the visitor in `ovspane shell`, the sandbox still up
DATAPATH ?= auto
SHELL_AFTER ?=
demo: build
	@DATAPATH='$(DATAPATH)' SHELL_AFTER='$(SHELL_AFTER)' demo/run

# BENCH_SECONDS bounds one case; what does not end is reported as such
BENCH ?=
BENCH_SECONDS ?= 60
bench: build
	$(VENV)/bin/python -m bench --seconds $(BENCH_SECONDS) $(BENCH)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find ovspane -name "*.so" -delete -o -name "_*.c" -delete
	find ovspane tests lab demo bench -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: build deps check check-system check-system-a check-system-b check-network check-cluster chaos check-kernel check-kernel-short measure test lint man demo bench clean
