# make run and make test set up what they need on a fresh machine: Python 3.11 or later is all.

# Variables are for the command line (make run PREFIX=one): others export the same names for purposes
# of their own, so the environment sets none of them. Only echod's own ECHOD_PORTS and ECHOD_PREFIX
# count. Nor does it say which modules Python loads, or where pip installs (tools/pip_install.py).
PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
PORTS = $(if $(value ECHOD_PORTS),$(value ECHOD_PORTS),9000,9001,9002)
PREFIX = $(if $(value ECHOD_PREFIX),$(value ECHOD_PREFIX),hello)
quoted = '$(subst ','\'',$1)'
LAB =
SOAK =
CLUSTER =
INJECT =
FUZZ =
BENCH =
BASE =
BUILD_OPTIONS =
RUN_OPTIONS =
unexport PYTHONPATH PYTHONHOME

.PHONY: run lab bench test test-plain test-real test-cluster soak inject fuzz lint format tables \
  monitoring picture dashboard-picture lock clean install uninstall image test-libraries dist \
  lint-workflows deb version sbom

run: $(VENV)/run.stamp
	$(BIN)/echod $(call quoted,$(PORTS)) $(call quoted,$(PREFIX))

# The traffic shifting exercise behind a real Envoy; LAB='--serve' and the like are its options.
lab: $(VENV)/lab.stamp
	$(BIN)/echod lab $(LAB)

# Python alone, no root: unit, functional and fault tests, and the project's own promises.
# What reaches no line that others do not: under coverage, simulations take four times as long, and
# each start of echod twice.
UNMEASURED = tests/unit/test_probe_error_rates.py tests/fuzz tests/qa

test: $(VENV)/test.stamp
	$(BIN)/pytest -n 3 -m "not long" $(UNMEASURED)
	$(BIN)/coverage erase
	$(BIN)/coverage run $(BIN)/pytest -n 3 -m "not long" tests/unit tests/functional tests/faults \
	  $(patsubst %,--ignore %,$(UNMEASURED))
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# The same on one more interpreter, without what does not depend on it: coverage, and tests/qa.
test-plain: $(VENV)/test.stamp
	$(BIN)/pytest -q -n 3 -m "not long" tests/unit tests/functional tests/faults

# What depends on the two libraries, with their oldest versions in setup.cfg's ranges, which are
# Debian 12's, and with Debian 13's.
LIBRARY_TESTS = tests/unit/test_log_writer.py $(patsubst %,tests/functional/test_%.py,health logs metrics)

test-libraries:
	for lock in oldest debian-13; do \
	  $(MAKE) VENV=$(VENV)-$$lock $(VENV)-$$lock/test.stamp && \
	  $(VENV)-$$lock/bin/python tools/pip_install.py --require-hashes -r requirements/$$lock.lock && \
	  $(VENV)-$$lock/bin/pytest -q -n 2 $(LIBRARY_TESTS) || exit 1; \
	done

# Against the real clients, kernels, systemd, image builders and schemas: .ci/run installs them.
# Alone: what takes the ports that the documents name, and what counts instructions.
ALONE = tests/mesh/test_documents.py tests/host/test_instructions.py

test-real: $(VENV)/real.stamp
	$(BIN)/pytest -n 2 --dist loadfile tests/host tests/mesh $(patsubst %,--ignore %,$(ALONE))
	$(BIN)/pytest $(ALONE)
	$(BIN)/pytest -n 2 --dist loadfile -m long tests/faults
	$(BIN)/pytest -n 2 -m long tests/inject

# The cluster's page, typed in the cluster of KUBECONFIG, and what it leaves out. Changes that cluster:
# CONTRIBUTING.md says how. CLUSTER='--image REGISTRY/echod:0.2.0' and the like are its options.
test-cluster: $(VENV)/real.stamp
	cd tests && ../$(BIN)/python -m cluster $(CLUSTER)

# A million lines on 100,000 connections, with drains and scrapes, and what is left of them: a minute
# or two; SOAK='--times 10' or SOAK='--minutes 60' goes on for longer.
soak: $(VENV)/test.stamp
	$(BIN)/pytest -s tests/soak $(SOAK)

# Each system call of a life of echod, and of runs of its other commands, fails once, with each error
# that it may have: hours. INJECT='--call accept4' or INJECT='-k lab' takes some of them. Needs a C
# compiler and strace.
inject: $(VENV)/real.stamp
	$(BIN)/pytest -s tests/inject/campaigns.py $(INJECT)

# Parsers and protocols against what must hold for any input, guided by coverage: ten minutes each, two
# at a time; FUZZ='--minutes 60 --only http' and the like are its options. make test replays the corpora.
fuzz: $(VENV)/fuzz.stamp
	cd tests && ../$(BIN)/python -m fuzz $(FUZZ)

lint: $(VENV)/lint.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The workflows of .github, by actionlint, which Go builds once, and by zizmor.
lint-workflows: $(VENV)/lint.stamp
	$(BIN)/zizmor --offline --quiet .github
	@if [ -x $(BIN)/actionlint ] || \
	  GOBIN=$$(realpath $(BIN)) go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.7; then \
	  echo $(BIN)/actionlint; $(BIN)/actionlint; \
	else \
	  echo "make: actionlint was not run: it takes Go 1.21 or later, and its module proxy"; \
	fi

format: $(VENV)/lint.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The tables of options, metrics and sample sizes in the documents, from the code.
tables: $(VENV)/test.stamp
	$(BIN)/python tools/tables.py

# The files in monitoring/ that are made of others.
monitoring: $(VENV)/real.stamp
	$(BIN)/python tools/rules.py
	$(BIN)/python tools/dashboard.py >$(VENV)/dashboard.json
	mv $(VENV)/dashboard.json monitoring/dashboard.json

# docs/split.svg: the lab, its Prometheus, and the weights moving.
picture: $(VENV)/picture.stamp
	$(BIN)/python tools/picture.py

# docs/dashboard.png: the dashboard while weights move, drawn by Grafana's own components; needs npm,
# chromium and prometheus, and twenty minutes.
dashboard-picture: $(VENV)/picture.stamp
	$(BIN)/python tools/board_picture.py

# echod beside its peers, into bench/results/; BENCH='--quick' and the like are its options.
bench: $(VENV)/bench.stamp
	$(BIN)/python -m bench $(BENCH)

# Newer versions within the ranges of setup.cfg, with the hashes of their files.
DEBIAN_13 = prometheus-client==0.21.1 structlog==25.3.0

lock: $(VENV)/lint.stamp
	for extra in lab picture bench test fuzz lint real dist; do \
	  $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --extra $$extra -o requirements/$$extra.lock -U setup.cfg; \
	done
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url -o requirements/run.lock -U setup.cfg
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --resolution lowest -o requirements/oldest.lock -U setup.cfg
	printf '%s\n' $(DEBIAN_13) | $(BIN)/uv pip compile -q --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/debian-13.lock -U -
	echo 'setuptools>=77' | $(BIN)/uv pip compile -q --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/build.lock -U -

# A source distribution, a wheel and echod.pyz, in dist/: the same bytes for the same commit.
dist: $(VENV)/dist.stamp
	$(BIN)/python tools/dist.py dist
	$(BIN)/twine check --strict dist/*.tar.gz dist/*.whl

# dist/echod_VERSION_all.deb, by Debian's debhelper and pybuild. MAINTAINER='NAME <ADDRESS>' answers for
# it; without one the package installs, and lintian says that its maintainer is no person.
MAINTAINER = echod <root@localhost>

deb:
	@sh tools/deb.sh '$(VERSION)' '$(subst ','\'',$(MAINTAINER))' '$(REPOSITORY)'

version:
	@echo '$(VERSION)'

# A service of this host, in /opt/echod; PYTHON is the one that it will run with.
install uninstall:
	@PYTHON="$(PYTHON)" sh systemd/install.sh $@

# echod:VERSION, by the first of docker, podman and buildah that is there. BASE is another base
# image, IMAGE another name, and BUILD_OPTIONS goes to the builder as it is.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' echod/__init__.py)
REPOSITORY = $(shell sed -n 's/^url = //p' setup.cfg)
IMAGE = echod:$(VERSION)
BUILDER = $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))
# The other format has no health check.
FORMAT = $(if $(findstring docker,$(BUILDER)),,--format docker)

image:
	@[ -n "$(BUILDER)" ] || { echo "make: no docker, podman or buildah found"; exit 1; }
	$(BUILDER) build $(FORMAT) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  --build-arg SOURCE=$(REPOSITORY) \
	  $(if $(BASE),--build-arg BASE=$(BASE)) $(BUILD_OPTIONS) -t $(IMAGE) .

# dist/echod-VERSION.cdx.json: a CycloneDX list of what is inside the image that make image has built.
RUNNER = $(firstword $(foreach tool,docker podman,$(shell command -v $(tool))))

sbom:
	@[ -n "$(RUNNER)" ] || { echo "make: no docker or podman found"; exit 1; }
	@mkdir -p dist
	$(RUNNER) run --rm --network none $(RUN_OPTIONS) --entrypoint /opt/echod/bin/python $(IMAGE) \
	  -I -c "$$(cat tools/sbom.py)" >dist/echod-$(VERSION).cdx.json

clean:
	rm -rf .venv* build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp says which sources are installed: tests and runs see the package as a user gets it.
SOURCES = setup.cfg pyproject.toml README.md $(shell find echod -name '*.py' -o -path '*/files/*')

$(VENV)/%.stamp: requirements/%.lock $(SOURCES) | $(VENV)/bin/python
	$(BIN)/python tools/pip_install.py --require-hashes -r $<
	$(BIN)/python tools/pip_install.py --no-deps --force-reinstall .
	@rm -rf build *.egg-info
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is not Python 3.11 or later: make PYTHON=python3.13, for example"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
