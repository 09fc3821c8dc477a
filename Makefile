SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
DOCS_VENV := .venv-docs
AUDIT_VENV := .venv-audit
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
# Python writes a module's bytecode at its first import. Without that, each start compiles them all.
NO_BYTECODE := $(PYTHONDONTWRITEBYTECODE)
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-joint demo-long compare lock stack stack-down image sbom audit test test-all test-live lint docs compile serve ui bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: path
path:
	@case "$$PWD" in *$$'\n'*) echo "error: the folder's path has a line break, which pip and git cannot take; rename the folder" >&2; exit 1;; esac

setup: path $(VENV)/ready  ## virtual environment with every pinned dependency

# pip comes from the calling Python: Debian ships venv's pip in another package.
# Everything but torch is pinned with hashes; --no-deps keeps pip from resolving anything again.
# Bytecode is written here only for programs that will be started outside make and may not write it.
# Programs are started by `python -m`: the first line of a script in bin is read by a shell if the
# path of this folder has a space.
$(VENV)/ready: requirements-dev.lock requirements-pip.lock pyproject.toml | path
	$(PYTHON) -m venv --without-pip --clear $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --no-compile --require-hashes -r requirements-pip.lock
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-compile $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(if $(NO_BYTECODE),$(BIN)/python -W ignore -m pipelines.preload)
	touch $@

# STACK=1: data are pulled from S3 by DVC, the store is in S3, runs and models are in MLflow's server.
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

compare: setup  ## every model under one small budget, in one report; ARGS="models=… images=… seeds=…"
	$(BIN)/python -m pipelines compare $(or $(ARGS),minutes=2)

# requirements.lock has the run-time packages (images, code hash), requirements-sign.lock also those
# for signatures, requirements-dev.lock also the tests' tools. torch is not locked, so that each machine gets its own build; its dependencies are.
# rfc3987-syntax, needed only by cyclonedx-bom, would add seconds to each step's start: kfp imports it.
UV_COMPILE = printf '%s\n' fsspec networkx setuptools sympy typing-extensions | \
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --overrides <(printf "%s; python_version < '3'\n" torch rfc3987-syntax) pyproject.toml -

lock:  ## regenerate every lock file; needs uv
	$(UV_COMPILE) --output-file requirements.lock >/dev/null
	$(UV_COMPILE) --extra sign --constraints requirements.lock --output-file requirements-sign.lock >/dev/null
	$(UV_COMPILE) --group dev --constraints requirements.lock --output-file requirements-dev.lock >/dev/null
	for name in docs lint; do uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --group $$name --constraints requirements-dev.lock \
		--output-file requirements-$$name.lock >/dev/null || exit 1; done
	for name in audit pip; do uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --group $$name --output-file requirements-$$name.lock >/dev/null || exit 1; done

# One worker runs a file's tests, the longest files first: tests/README.md.
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: setup  ## the tests, in 20 to 25 minutes on two cores; ARGS="tests/data" for some of them
	$(PYTEST) -m "not long and not container and not live" $(ARGS)

test-all: setup  ## every test, including images and the long ones
	$(PYTEST) -m "not brief and not live" $(ARGS)

# One after another: they stop servers that all of them use.
test-live: setup  ## the tests on the cluster of KUBECONFIG and KF_PIPELINES_ENDPOINT: tests/live/README.md
	$(BIN)/python -m pytest -m live tests/live $(ARGS)

# Neither the demo nor the tests need these tools.
$(VENV)/lint: $(VENV)/ready requirements-lint.lock
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements-lint.lock
	touch $@

lint: $(VENV)/lint  ## formatting, lint rules, import layers, types
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check --no-cache .
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as run; run()' --no-cache --no-logo
	$(BIN)/python -m mypy

stack: setup  ## S3, Postgres and MLflow on loopback; prints exports for a shell
	@$(BIN)/python -m pipelines.local.stack up

stack-down: setup  ## stop the servers of `make stack`; the data are kept in runs/stack
	@$(BIN)/python -m pipelines.local.stack down

image:  ## build the two images with docker, podman or buildah; settings in components/image.sh
	components/image.sh steps stargan-steps:0.2.0
	components/image.sh train stargan-train:0.2.0

sbom: setup  ## the images' packages as CycloneDX SBOMs: runs/sbom-steps.json, runs/sbom-train.json
	mkdir -p runs
	$(BIN)/python -m pipelines.sbom runs '$(TORCH)'

$(AUDIT_VENV)/ready: requirements-audit.lock
	$(PYTHON) -m venv --without-pip --clear $(AUDIT_VENV)
	$(PYTHON) -m pip --python $(AUDIT_VENV)/bin/python install --quiet --no-deps --require-hashes -r $<
	touch $@

audit: setup $(AUDIT_VENV)/ready  ## look up known flaws of the images' packages (on pypi.org)
	@$(BIN)/python -m pipelines.audit $(AUDIT_VENV)/bin/python '$(TORCH)'

# The site's tools have a separate environment, which `make setup` does not create. The API reference
# is read from the sources, so that neither torch nor the project is installed there.
$(DOCS_VENV)/ready: requirements-docs.lock
	$(PYTHON) -m venv --without-pip --clear $(DOCS_VENV)
	$(PYTHON) -m pip --python $(DOCS_VENV)/bin/python install --quiet --no-deps --require-hashes -r $<
	touch $@

docs: $(DOCS_VENV)/ready  ## the documentation as a website: runs/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict --clean

compile: setup  ## pipelines/stargan.yaml and stargan-parts.yaml from pipelines/stargan.py
	$(BIN)/python -m pipelines compile

serve: setup  ## page and API of a promoted model, http://127.0.0.1:8080; ARGS="stargan@champion"
	@$(BIN)/python -m training.serve $(or $(ARGS),stargan@champion)

ui: setup  ## MLflow with the runs of this machine, http://127.0.0.1:5000
	@$(BIN)/python -m training.tracking ui

bench: setup  ## benchmark training step, penalty, preprocessing and work beside other processes
	for file in preprocess step penalty contention; do $(BIN)/python "benchmarks/$$file.py" || exit 1; done

clean:  ## delete all run outputs, including the local registry and DVC remote; ./data is kept
	rm -rf runs .*.tmp .*.part
