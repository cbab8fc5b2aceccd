# make demo     a story from the embedded checkpoint: sets up .venv, exports, generates (no torch, no hub)
# make test     the whole test suite, with its own set-up
# make test-gpu-wheel  the runtime on onnxruntime-gpu, with or without a device: an environment of its own
# make check    format, lint, types, import floors
# make compare  one prompt through every strategy
# make storyteller  the int8 model inside the package
# make peers    speed, size and quality beside other engines: an environment each in build/peers

PYTHON ?= python3
PROMPT ?= Once upon a time there was a little fox who
export PROMPT

BIN := .venv/bin
BUNDLE := models/storyteller-fp32
CHECKPOINT := $(wildcard models/storyteller/*.json) models/storyteller/model.safetensors
EXPORT_SOURCES := $(wildcard export/ortgpt_export/*.py)

.PHONY: demo compare test test-gpu-wheel check bench peers storyteller clean
.DELETE_ON_ERROR:
.SILENT:

demo: $(BUNDLE)/manifest.json
	$(BIN)/ortgpt generate "$$PROMPT" -m $(BUNDLE) --strategy sample --temperature 0.8 --top-p 0.95 \
		--repetition-penalty 1.1 --max-new-tokens 200 --echo

compare: $(BUNDLE)/manifest.json
	$(BIN)/python examples/compare.py $(BUNDLE) "$$PROMPT"

test: .venv/.dev .venv-lean/.ready
	$(BIN)/python -m pytest -n 2 $(TESTS)

# Minutes, and some hundred megabytes: not part of make test.
test-gpu-wheel: .venv-gpu/.ready
	.venv-gpu/bin/python -m pytest -n 2 tests/gpu_wheel tests/runtime/test_cuda.py tests/runtime/test_generator.py \
		tests/runtime/inference/test_[cfms]*.py

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev
	$(BIN)/python benchmarks/decode_against_optimum.py
	$(BIN)/python benchmarks/strategy_cost.py

peers: .venv/.run
	$(BIN)/python benchmarks/peers/quality.py
	$(BIN)/python benchmarks/peers/compare.py

$(BUNDLE)/manifest.json: $(CHECKPOINT) $(EXPORT_SOURCES) | .venv/.run
	$(BIN)/ortgpt export models/storyteller -o $(BUNDLE) --force 1>&2

# The model inside the package. To be made anew, and committed, when the checkpoint or the int8 export changes.
storyteller: | .venv/.run
	$(BIN)/ortgpt export models/storyteller -o runtime/ortgpt/storyteller --precision int8 --force 1>&2

.venv/bin/python:
	$(PYTHON) -m venv .venv 1>&2
	$(BIN)/python -m pip install --quiet --upgrade pip 1>&2

# Running and exporting: no torch.
.venv/.run: pyproject.toml Makefile | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[cpu,export,grammar]" 1>&2
	touch $@

# Developing: torch comes from the constraints.
.venv/.dev: pyproject.toml constraints-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints-dev.txt torch 1>&2
	$(BIN)/python -m pip install --quiet --constraint constraints-dev.txt --editable ".[dev]" 1>&2
	touch $@ .venv/.run

# What a user who only generates has: the tests run the whole runtime in it.
.venv-lean/.ready: pyproject.toml $(shell find runtime/ortgpt -name '*.py')
	test -x .venv-lean/bin/python || $(PYTHON) -m venv .venv-lean 1>&2
	.venv-lean/bin/python -m pip install --quiet --upgrade --force-reinstall --no-deps . 1>&2
	.venv-lean/bin/python -m pip install --quiet ".[cpu]" 1>&2
	touch $@

.venv-gpu/.ready: pyproject.toml Makefile
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu 1>&2
	.venv-gpu/bin/python -m pip install --quiet --editable ".[gpu,export,grammar]" pytest pytest-xdist 1>&2
	touch $@

clean:
	rm -rf .venv .venv-lean .venv-gpu models/storyteller-* build dist
