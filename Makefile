# Every target works as the first command after `git clone`: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PHOTO  ?= docs/street.jpg

.PHONY: install train-default docs graphs parity serve test test-all check fmt bench soak clean browser

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp each, so that a second `make` installs nothing.
$(VENV)/serve.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[serve,torch]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/serve.stamp

install: $(VENV)/dev.stamp

serve: $(VENV)/serve.stamp
	$(BIN)/hrpose serve

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

test-all: $(VENV)/dev.stamp browser
	$(BIN)/python -m pytest -m ''

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

fmt: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev.stamp
	$(BIN)/hrpose settings > docs/configuration.md
	$(BIN)/hrpose backbones --parity docs/parity.json > docs/backbones.md
	$(BIN)/hrpose backbones --json > service/backbones.json
	$(BIN)/python -m tests.models.drawings docs/blocks

# What is served without torch, from the embedded checkpoints.
graphs: $(VENV)/dev.stamp
	$(BIN)/python -m heads.export --graphs

# Some minutes: every backbone beside its public twin.
parity: $(VENV)/dev.stamp
	$(BIN)/python -m tests.models.twins docs/parity.json

# The campaign of the project's HRNet, from DATA with train/ and val/; goes on where it was.
train-default: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive nice -n 15 $(BIN)/torchrun --nproc-per-node 2 \
		-m training recipes/hrnet_w18_small_256x192.toml --data $(DATA)

bench: $(VENV)/dev.stamp
	$(BIN)/python -m tests.bench

# Half an hour of mixed traffic: nothing may grow, and no answer may change.
soak: $(VENV)/dev.stamp
	$(BIN)/python -m tests.soak

# The page is tested in a real browser; Debian and Ubuntu carry one.
browser:
	@command -v chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; }

clean:
	rm -rf $(VENV) build *.egg-info
