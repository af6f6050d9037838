# Everything from nothing with Python 3.11, make and a package index. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin

# A machine with a GPU gets the CUDA build of vLLM and PyTorch.
ACCELERATOR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
LOCK        := requirements/$(ACCELERATOR).txt
READY       := $(VENV)/.installed-$(ACCELERATOR)

# Where PyTorch's CPU build comes from when the package index at hand has none.
PIP_EXTRA := $(if $(DRIFT_TORCH_INDEX),--extra-index-url $(DRIFT_TORCH_INDEX))

COMPILE := $(BIN)/uv pip compile --quiet pyproject.toml --python-version 3.11 --no-header --no-annotate $(PIP_EXTRA)
LOCK_IMAGE = $(COMPILE) $(addprefix --extra ,$(2)) -c requirements/$(3).txt $(if $(filter cpu,$(3)),--override requirements/cpu-overrides.txt) $(4) \
  --python-platform x86_64-manylinux_2_28 -o requirements/images/$(1).txt
ALL     := $(addprefix --extra ,verifier rollout trainer model cli local otel bench dev)

.DEFAULT_GOAL := help

$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed: install it, or name it with PYTHON=/path/to/python3.11."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-deps $(PIP_EXTRA) -r $(LOCK) || \
	  { echo; echo "The packages of $(LOCK) could not be installed; see pip's message above."; \
	    echo "If it is torch that was not found: set DRIFT_TORCH_INDEX to PyTorch's own wheel index for $(ACCELERATOR) and try again."; exit 1; }
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: install demo test test-faults fuzz test-docker test-api sbom audit lint types imports docs test-browser up down lock clean help

install: $(READY) ## Make .venv with everything in it

demo: $(READY) ## Train a small model to get better at trying again, start to end
	$(BIN)/drift demo

test: $(READY) ## All tests: unit, properties, loop, and the real engine end to end
	$(BIN)/python -m pytest

test-faults: $(READY) ## A hundred SIGKILLs over the rollout side's processes, fifty over a training's
	DRIFT_FAULTS=100 $(BIN)/python -m pytest tests/rollout/test_faults.py
	DRIFT_FAULTS=50 $(BIN)/python -m pytest tests/trainer/test_faults.py

test-docker: $(READY) ## The stack in real containers: built, killed, scaled, kept, removed
	tests/docker/run.sh

test-api: $(READY) ## A full schemathesis run over both OpenAPI documents
	DRIFT_API_EXAMPLES=300 $(BIN)/python -m pytest tests/security/test_schemathesis.py

sbom: $(READY) ## A CycloneDX document for each image's packages, in build/sbom
	@mkdir -p build/sbom
	for lock in requirements/images/*.txt; do \
	  $(BIN)/uv tool run --quiet --from 'cyclonedx-bom>=7.1,<8' cyclonedx-py requirements $$lock \
	    -o build/sbom/$$(basename $$lock .txt).cdx.json || exit 1; done

audit: $(READY) ## Ask the advisory database about every image's packages
	for lock in requirements/images/*.txt; do echo "== $$lock"; \
	  sed 's/+cpu$$//' $$lock | $(BIN)/uv tool run --quiet --from 'pip-audit>=2.9,<3' pip-audit --strict --no-deps --disable-pip -r /dev/stdin || exit 1; done

fuzz: $(READY) ## Five minutes of coverage-guided fuzzing of the verifier (Linux on x86-64)
	$(BIN)/python -m pip install --quiet atheris
	$(BIN)/python -m tests.verifier.fuzz -max_total_time=300

lint: $(READY) ## Style: ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Types: pyright
	$(BIN)/pyright

docs: $(READY) ## The documentation's site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

test-browser: $(READY) ## The dashboard in a real Chromium; screenshots in .drift/screenshots
	$(BIN)/python -m pytest tests/browser

imports: $(READY) ## Who may import whom: import-linter
	$(BIN)/lint-imports

up: $(READY) ## Start the local stack in the background
	$(BIN)/drift up

down: $(READY) ## Stop it
	$(BIN)/drift down

lock: $(READY) ## Resolve requirements/*.txt anew from pyproject.toml
	$(COMPILE) $(ALL) --extra engine-cpu --override requirements/cpu-overrides.txt -o requirements/cpu.txt
	$(COMPILE) $(ALL) --extra engine-gpu --python-platform x86_64-manylinux_2_28 -o requirements/gpu.txt
	$(call LOCK_IMAGE,verifier,verifier otel,cpu)
	$(call LOCK_IMAGE,rollout,rollout otel,cpu,--override requirements/rollout-overrides.txt)
	$(call LOCK_IMAGE,trainer,trainer otel,cpu)
	$(call LOCK_IMAGE,trainer-gpu,trainer otel,gpu)
	$(call LOCK_IMAGE,model,trainer otel model,cpu)
	$(call LOCK_IMAGE,engine-cpu,engine-cpu,cpu)

clean: ## Remove what make, the tests and the stack have made, but not runs/
	rm -rf $(VENV) .drift .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
