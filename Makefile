# One command each; every target makes its own virtual environment first.
#
#   make demo        five agents schedule a real conference (set-up included)
#   make demo STORE=etcd, STORE=postgresql, STORE=URL: on its servers, or on a store that is there
#   make demo-gossip five replicas write while their network breaks and heals
#   make demo-teams  a dozen workers share a queue of jobs and are killed all the time
#   make demo-rooms  twenty agents book one room in five ways, two of them naive
#   make demo-orders sixty orders are completed or compensated, whoever is killed
#   make test        every test               make test-fast   laws, units and simulation only
#   make check       style, types, rooms      make soak        the full counts of every random test
#   make bench       figures of the README    make clean       forget the environment and caches
#   make check-newest        the pure tests under the newest CPython that can be had (Pyodide's)
#   make check-without-face  all but `convoca/` without it
#   make sbom        bill of materials        make lock        renew requirements-dev.lock
#   make images      the pictures of docs/images, from the tests that drive the page in Chromium
#   make docs        the pages of docs/ as a site, in out/docs

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2
# Where the random tests begin that ask Hypothesis: another seed each day, printed, to be given again.
SEED   ?= $(shell date -u +%Y%m%d)
# A test that hangs is one failure, with the lines where its threads stood, and not a lost run: its
# worker ends, another one takes its place. A whole demo beside other work takes minutes.
HANGS_AFTER_S ?= 600
PYTEST = -m pytest -q -n $(WORKERS) --dist worksteal --hypothesis-seed=$(SEED) \
  -o faulthandler_timeout=$(HANGS_AFTER_S) -o faulthandler_exit_on_timeout=true

.PHONY: images setup demo demo-gossip demo-orders demo-rooms demo-teams test test-fast check bench soak docs format clean

setup: $(STAMP)

# What is installed is what the lock says, file by file, by hash. convoca itself comes from here, and
# is built by the locked hatchling.
$(STAMP): pyproject.toml requirements-dev.lock
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

# The demo needs no development tools: core dependencies and the calendar extra only.
DEMO_STAMP := $(VENV)/.installed-demo
$(DEMO_STAMP): pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@test -e $(STAMP) || $(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[calendar]'
	@touch $@

demo: $(DEMO_STAMP)
	@$(BIN)/python -m demos meetings $(if $(STORE),--store '$(STORE)') $(ARGS)

demo-gossip: $(DEMO_STAMP)
	@$(BIN)/python -m demos gossip $(ARGS)

demo-orders: $(DEMO_STAMP)
	@$(BIN)/python -m demos orders $(ARGS)

demo-rooms: $(DEMO_STAMP)
	@$(BIN)/python -m demos rooms $(ARGS)

demo-teams: $(DEMO_STAMP)
	@$(BIN)/python -m demos teams $(ARGS)

test: $(STAMP)
	@echo 'make $@ SEED=$(SEED)'
	@$(BIN)/python $(PYTEST) $(ARGS)

test-fast: $(STAMP)
	@echo 'make $@ SEED=$(SEED)'
	@$(BIN)/python $(PYTEST) -m 'not processes and not demo and not browser' $(ARGS)

images: $(STAMP)
	@CONVOCA_IMAGES=1 CONVOCA_REQUIRE=chromium $(BIN)/python -m pytest -q tests/demos/test_gossip_page.py tests/demos/test_gossip_picture.py tests/convoca/test_page_browser.py -k 'diverge or counting or picture'

soak: HANGS_AFTER_S = 0
soak: $(STAMP)
	@echo 'make $@ SEED=$(SEED)'
	@CONVOCA_SOAK=1 $(BIN)/python $(PYTEST) $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python tools/advisories.py

# The newest CPython that can be had without installing one: Pyodide's, from npm. There are no
# processes, sockets or threads in it, so it runs what is pure, with a third of each random sample.
NEWEST := out/newest
PURE   := tests/crdt tests/replication/protocol tests/replication/test_version.py
PURE   += tests/replication/test_config.py tests/replication/test_options.py
PURE   += tests/transactional/calendars tests/transactional/events tests/transactional/sagas
PURE   += tests/transactional/reservations tests/transactional/queues
PURE   += $(addprefix tests/transactional/test_, errors.py fences.py lock.py register.py retry.py rules.py)
PURE   += $(addprefix tests/transactional/stores/test_, feed.py last_changes.py compare_and_swap.py lease.py transact.py watch.py)
# The simulation (but for its random histories, which take long there), the checker of histories,
# and what the command is without anybody to ask.
PURE   += tests/simulation --ignore=tests/simulation/test_histories.py
PURE   += tests/transactional/stores/test_linearizability.py
PURE   += tests/convoca/test_command.py tests/test_verbs.py tests/transactional/cli
# Two ask for what is not in a browser's Python: limits of a process, and a compiled CRDT of others.
PURE   += --ignore=tests/crdt/testing/test_mutants.py --ignore=tests/crdt/testing/test_third_party.py
check-newest: $(STAMP)
	@test -d $(NEWEST)/node_modules/pyodide || npm install --no-audit --no-fund --silent --prefix $(NEWEST) pyodide
	@test -d $(NEWEST)/site/hypothesis || $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $(NEWEST)/site hypothesis==6.150.0 sortedcontainers
	@node --stack-size=6000 tools/newest.mjs $(CURDIR) $(CURDIR)/$(NEWEST)/site $(CURDIR)/$(NEWEST)/node_modules/pyodide/pyodide.mjs -q -p no:cacheprovider -m 'not processes' $(ARGS) $(PURE)

# The face is a face: in a copy in which `import convoca` fails the three packages, their tests and
# the demos that do not use it pass.
check-without-face: $(STAMP)
	@rm -rf out/faceless && mkdir -p out/faceless
	@git ls-files -z --cached --others --exclude-standard | grep -zv '^convoca/\|^tests/convoca/\|^tests/page' | xargs -0 cp --parents -t out/faceless
	@echo 'raise ImportError("the face is gone")' > out/faceless/convoca.py
	@cd out/faceless && PYTHONPATH=. $(CURDIR)/$(BIN)/python -m demos meetings && PYTHONPATH=. $(CURDIR)/$(BIN)/python -m demos gossip --simulate 20
	@cd out/faceless && PYTHONPATH=. $(CURDIR)/$(BIN)/python $(PYTEST) -p no:cacheprovider tests/crdt tests/replication tests/transactional $(ARGS)

# A bill of materials of what a user installs, in out/.
sbom: $(STAMP)
	@$(BIN)/python tools/sbom.py

# The documentation as a site. A warning is an error; links out of it are tried where a network answers.
docs: $(STAMP)
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs out/docs
	@echo 'out/docs/index.html'

# Renew the lock after pyproject.toml changed, or to take in newer releases.
lock:
	@test -x $(VENV)/uv/bin/uv || { $(PYTHON) -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install -qq --disable-pip-version-check 'uv>=0.9'; }
	@$(PYTHON) tools/lock.py $(VENV)/uv/bin/uv

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[bench]'
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis out
