SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
DOCS_VENV := .venv-docs
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-joint demo-long compare lock stack stack-down image sbom test test-all lint docs compile ui bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/ready  ## virtual environment with every pinned dependency

# The environment takes its pip from the caller's: Debian keeps venv's own in another package.
# Everything but torch is pinned with hashes; --no-deps keeps pip from resolving anything again.
# Bytecode is made afterwards, on all cores; a package's files for other Pythons may fail to compile.
$(VENV)/ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv --without-pip --clear $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --no-compile pip
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-compile $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib training components pipelines || true
	touch $@

# STACK=1: the data come from S3 by DVC, the store is S3, runs and models are on the MLflow server.
ifdef STACK
ON_STACK = exports=$$($(BIN)/python -m pipelines.local.stack up) && eval "$$exports" && $(BIN)/python -m training.data push && \
	export DRAW_DEMO=0 &&
endif

demo: setup  ## raw faces to a promoted model on this machine, minutes; ARGS="key=value", STACK=1
	$(ON_STACK) $(BIN)/python -m pipelines run $(ARGS)

demo-joint: setup  ## the same on two data sets with the mask vector
	$(BIN)/python -m pipelines run preset=demo-joint name=stargan-joint $(ARGS)

demo-long: setup  ## the same for up to an hour: gender, age and expressions as well
	$(BIN)/python -m pipelines run preset=demo-long name=stargan-joint $(ARGS)

compare: setup  ## every model under one small budget, on one page; ARGS="models=… images=… seeds=…"
	$(BIN)/python -m pipelines compare $(or $(ARGS),minutes=2)

# requirements.lock is what runs (the images, the code hash), requirements-dev.lock that and the
# tools. torch stays outside, so that each machine takes its own build; what it needs is inside.
# rfc3987-syntax, wanted by cyclonedx-bom alone, adds seconds to every start of a step: kfp imports it.
UV_COMPILE = printf '%s\n' fsspec networkx setuptools sympy typing-extensions | \
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --overrides <(printf "%s; python_version < '3'\n" torch rfc3987-syntax) pyproject.toml -

lock:  ## every lock file anew; needs uv
	$(UV_COMPILE) --output-file requirements.lock >/dev/null
	$(UV_COMPILE) --group dev --constraints requirements.lock --output-file requirements-dev.lock >/dev/null
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --group docs --constraints requirements-dev.lock \
		--output-file requirements-docs.lock >/dev/null

# One worker runs a file's tests, the longest files first: tests/README.md.
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

test: setup  ## the tests, in 20 minutes on two cores; ARGS="tests/data" for some of them
	$(PYTEST) -m "not long and not container" $(ARGS)

test-all: setup  ## every test, images and the long ones too
	$(PYTEST) $(ARGS)

lint: setup  ## format, rules, layers of imports, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

stack: setup  ## S3, Postgres and MLflow on loopback; prints the exports that a shell needs
	@$(BIN)/python -m pipelines.local.stack up

stack-down: setup  ## stop what `make stack` started; the data stay in runs/stack
	@$(BIN)/python -m pipelines.local.stack down

image:  ## the two images, by docker, podman or buildah; settings in components/image.sh
	components/image.sh steps stargan-steps:0.2.0
	components/image.sh train stargan-train:0.2.0

sbom: setup  ## what runs in the images, as CycloneDX: runs/sbom.json
	mkdir -p runs
	{ cat requirements.lock; echo '$(TORCH)'; } | \
		$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml -o runs/sbom.json -

# The site's tools have an environment of their own: `make setup` goes without them. The API reference
# is read from the sources, so that neither torch nor the project is installed there.
$(DOCS_VENV)/ready: requirements-docs.lock
	$(PYTHON) -m venv --without-pip --clear $(DOCS_VENV)
	$(PYTHON) -m pip --python $(DOCS_VENV)/bin/python install --quiet --no-deps --require-hashes -r $<
	touch $@

docs: $(DOCS_VENV)/ready  ## the documentation as a website: runs/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --clean

compile: setup  ## pipelines/stargan.yaml from pipelines/stargan.py
	$(BIN)/python -m pipelines compile

ui: setup  ## MLflow on the runs of this machine, http://127.0.0.1:5000
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "the runs are on $$MLFLOW_TRACKING_URI"; exit;; esac; \
	$(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/runs/mlflow.db}"

bench: setup  ## our step and our preprocessing against plain ones
	for file in benchmarks/preprocess.py benchmarks/step.py; do $(BIN)/python "$$file" || exit 1; done

clean:  ## delete what runs have written, the local registry and DVC remote too; ./data stays
	rm -rf runs
