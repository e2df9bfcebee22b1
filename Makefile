# Every target sets up what it needs in .venv/ and then calls one command.
# PYTHON=python3.12 make run   picks another interpreter.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
BIN := .venv/bin

.PHONY: help run dev drive test test-cov test-integration test-reliability test-support test-foreign test-performance test-gpu benchmark benchmark-gpu benchmark-peers benchmark-memory perf-analyzer load-tools monitor-tools proxies browser quality audit lock sbom create-artifacts export validate-artifacts install-dev test-deploy docker-build docker-run deploy-k8s secrets clean

help:  ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

run: .venv/.installed$(if $(EXAMPLE),-convert)  ## set up and serve the default policy; EXAMPLE=steps, sight or memory serves that example's
	$(if $(EXAMPLE),$(BIN)/carlarl export --artifacts examples/artifacts/$(EXAMPLE) --repository runs/$(EXAMPLE)/model_repository)
	exec $(BIN)/carlarl serve $(if $(EXAMPLE),--repository runs/$(EXAMPLE)/model_repository)

dev: .venv/.installed  ## serve with a talkative log
	LOG_LEVEL=debug exec $(BIN)/carlarl serve

drive: .venv/.installed-drive  ## drive three laps through the running gateway, draw drive.png
	$(BIN)/carlarl drive --laps 3 --output drive.png

test: .venv/.installed-test load-tools monitor-tools proxies browser  ## set up and run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-cov: .venv/.installed-dev load-tools monitor-tools proxies  ## the tests, with their coverage of the code
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

test-integration: .venv/.installed-test  ## the tests that talk to a live Triton
	$(BIN)/python -m pytest -m 'live and not reliability'

test-reliability: .venv/.installed-test  ## break the service under load, and the other long tests; writes docs/RELIABILITY.md
	@for tool in haproxy wrk; do command -v $$tool >/dev/null || { echo "make: apt-get install $$tool" >&2; exit 1; }; done
	$(BIN)/python -m pytest -m reliability

test-support: .venv/.installed-test  ## try each kind of policy, 20 minutes; writes docs/SUPPORT.md
	$(BIN)/python -m pytest -m support --numprocesses 2 tests/support

test-foreign: .venv/.installed-test .venv/.installed-foreign  ## train and drive in environments of other projects; writes docs/SUPPORT.md
	$(BIN)/python -m pytest -m foreign tests/foreign

test-performance: .venv/.installed-test load-tools  ## is the gateway still faster than the plain alternative?
	$(BIN)/python -m perf.bench.gate

benchmark: .venv/.installed-bench load-tools  ## measure all layers: runs/bench.json, runs/charts/
	$(BIN)/carlarl bench run --repeats 3 --save-results
	$(BIN)/python -m perf.bench.charts

benchmark-peers: .venv/.installed-bench load-tools  ## other ways to serve the same policy, in turns: runs/peers/
	$(BIN)/carlarl bench peers

benchmark-memory: .venv/.installed-bench load-tools  ## memory over half a million requests: runs/memory/
	$(BIN)/carlarl bench memory

test-gpu: .venv/.installed-test .venv/.installed-gpu  ## the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

benchmark-gpu: .venv/.installed-test .venv/.installed-gpu load-tools  ## Triton and the gateway with the policy on the GPU: runs/gpu.json
	USE_GPU=1 $(BIN)/carlarl bench run --layers triton-http,gateway --repeats 3 --save-results runs/gpu.json

perf-analyzer: .perf-analyzer/.installed  ## Triton's load generator, for carlarl bench

test-deploy: .venv/.installed-test  ## build the images, run compose.yaml and a fleet behind HAProxy; as root
	$(BIN)/python -m pytest -m deploy

quality: .venv/.installed-dev  ## lint, format, types, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit

audit: .venv/.installed-dev  ## known vulnerabilities of the locked packages; AUDIT=strict fails without a network
	$(BIN)/python .ci/audit

LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
	--no-annotate --custom-compile-command 'make lock'

lock: .venv/.installed-dev  ## renew the lock files: what the images install, with hashes
	$(LOCK) --extra traces --output-file requirements.lock pyproject.toml
	$(LOCK) --extra bench --extra convert --extra drive --output-file requirements-tools.lock pyproject.toml
	for name in gateway triton triton-gpu; do \
		$(LOCK) --constraint requirements.lock --output-file docker/$$name.lock docker/$$name.txt || exit 1; \
	done

sbom: .venv/.installed-dev  ## what the images are made of, as CycloneDX: build/sbom.json, build/sbom-tools.json
	@mkdir -p build
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o build/sbom.json requirements.lock
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o build/sbom-tools.json requirements-tools.lock

create-artifacts: .venv/.installed-test  ## train the policies again, into runs/
	$(BIN)/python -m examples.train --preset v0.1.0 --output runs/v0.1.0
	$(BIN)/python -m examples.train --preset v0.2.0 --output runs/v0.2.0
	$(BIN)/python -m examples.train --preset steps --output runs/steps
	$(BIN)/python -m examples.train --preset sight --output runs/sight
	$(BIN)/python -m examples.imitate --no-memory --output runs/memory-v0.1.0
	$(BIN)/python -m examples.imitate --output runs/memory-v0.2.0

export: .venv/.installed-test  ## artifacts/ → model_repository/
	$(BIN)/carlarl export

validate-artifacts: .venv/.installed-test  ## artifacts/, model_repository/ and the certificates
	$(BIN)/carlarl validate

docker-build:  ## the images: gateway, Triton, all in one
	GIT_COMMIT=$$(git rev-parse --short HEAD) docker compose --profile cpu --profile tools build

docker-run: secrets  ## Triton and the gateway in containers, on http://localhost:8080
	docker compose --profile cpu up --wait

deploy-k8s:  ## apply the overlay cpu to your cluster, or OVERLAY=gpu
	kubectl apply -k docker/k8s/overlays/$(or $(OVERLAY),cpu)

install-dev: .venv/.installed-dev  ## set up everything for working on the code

clean:  ## remove the environment and caches
	rm -rf .venv .perf-analyzer .prometheus .proxies .pytest_cache .mypy_cache .ruff_cache build *.egg-info

# Without them the benchmarks leave out what needs them, and say so.
load-tools:
	-@command -v wrk >/dev/null || { [ "$$(id -u)" = 0 ] && { apt-get install -qq -y wrk || { apt-get update -qq && apt-get install -qq -y wrk; }; } >/dev/null; } || { echo "make: wrk is missing: apt-get install wrk" >&2; exit 1; }
	-@$(MAKE) --no-print-directory perf-analyzer

# This tritonclient is the last that brings perf_analyzer, and too old for the gateway's environment.
.perf-analyzer/.installed: .venv/.python
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target .perf-analyzer tritonclient==2.51.0 'nvidia-cuda-runtime-cu12~=12.4'
	@ldconfig -p | grep -q 'libb64\.so\.0d' || { cd .perf-analyzer && { apt-get download -qq -o APT::Sandbox::User=root libb64-0d || { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root libb64-0d; }; } && dpkg -x libb64-0d_*.deb .; } || { echo "make: perf_analyzer needs libb64.so.0d: on Debian or Ubuntu, apt-get install libb64-0d" >&2; exit 1; }
	@touch $@

# Debian's, unpacked and not installed: as a package it starts a service. Without it its tests are skipped, or fail where CI is set.
monitor-tools:
	-@command -v prometheus >/dev/null && command -v promtool >/dev/null || $(MAKE) --no-print-directory .prometheus/.installed

# nginx, HAProxy and curl with what they need, unpacked and not installed for the same reason.
proxies:
	-@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null && command -v haproxy >/dev/null && command -v curl >/dev/null || $(MAKE) --no-print-directory .proxies/.installed

# The console's tests use it, and are skipped without it. Ubuntu's package needs snap: there install Chrome.
browser:
	-@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit; done; { [ "$$(id -u)" = 0 ] && { apt-get install -qq -y --no-install-recommends chromium || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; }; } >/dev/null; } || { echo "make: no browser, so the console's tests will be skipped: apt-get install chromium" >&2; exit 1; }

.prometheus/.installed:
	@mkdir -p .prometheus && cd .prometheus && { { apt-get download -qq -o APT::Sandbox::User=root prometheus || { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root prometheus; }; } && dpkg -x prometheus_*.deb . && rm prometheus_*.deb && usr/bin/promtool --version; } >/dev/null 2>&1 || { echo "make: prometheus is missing: apt-get install prometheus" >&2; exit 1; }
	@touch $@

.proxies/.installed:
	@mkdir -p .proxies && cd .proxies && get() { names=$$(apt-get install --simulate --no-install-recommends nginx haproxy curl | sed -n 's/^Inst \([^ ]*\).*/\1/p') && test -n "$$names" && apt-get download -qq -o APT::Sandbox::User=root $$names; } && { { get || { apt-get update -qq && get; }; } && for package in *.deb; do dpkg -x $$package . || exit 1; done && rm *.deb; } >/dev/null 2>&1 || { echo "make: nginx, haproxy or curl is missing: apt-get install nginx haproxy curl" >&2; exit 1; }
	@touch $@

secrets: secrets/api_keys secrets/triton_secret secrets/state_secret secrets/grafana_password  ## the files that compose.yaml hands out; each is made once

# In the containers others must read them; out here the folder is closed.
secrets/triton_secret secrets/state_secret secrets/grafana_password:
	@mkdir -p -m 700 secrets && python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > $@ && chmod 644 $@

secrets/api_keys:
	@mkdir -p -m 700 secrets && key=$$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))') && \
	printf %s "$$key" | sha256sum | cut -d' ' -f1 > $@ && chmod 644 $@ && echo "your API key: $$key (only its SHA-256 is kept, in $@)"

.venv/.python:
	@test -n "$(PYTHON)" || { echo "make: no python3 found: install Python 3.11 or 3.12" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -c '' 2>/dev/null || { echo "make: $(PYTHON) can't be run: install Python 3.11 or 3.12, or say with PYTHON=... where it is" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1): needed is 3.11 or 3.12; say which with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) lacks venv: on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: .venv/.python pyproject.toml
	@echo "installing packages into .venv, which takes a minute or two"
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

.venv/.installed-%: .venv/.python pyproject.toml client/pyproject.toml
	@echo "installing packages into .venv, which takes a minute or two"
	$(BIN)/python -m pip install --quiet -e '.[$*]' -e client
	@touch .venv/.installed $@
