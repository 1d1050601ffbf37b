# The project's commands. `make demo` and `make test` work on a fresh clone with Python 3.11+, make and git.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# They draw and train for a minute, and few changes touch them.
SLOW_UNITS := tests/unit/bench tests/unit/training
LOCKS := deploy/docker/requirements

.PHONY: install demo check test test-chaos test-compose test-clients lock pin sbom gallery clean

install: $(STAMP)

# The constraints pin every version that the tests ran with; the stamp makes the next call quick.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[worker,embedded,test]'
	touch $(STAMP)

demo: install
	$(BIN)/zimage demo

# What every step of a change is checked with: lint, types, import contracts and the tests that need no server. 2 min.
check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile tests/unit $(SLOW_UNITS:%=--ignore %)

# All that can be tested without a GPU, root and containers.
test: check
	$(BIN)/pytest -n 2 --dist loadfile tests/integration tests/browser tests/gpu $(SLOW_UNITS)
	$(MAKE) test-chaos

# The part of the tests that kills processes: each fault of bench.chaos, in small, on two stacks beside each other.
test-chaos: install
	$(BIN)/pytest -n 2 --maxschedchunk 1 tests/chaos

# The compose file for real: images built, containers run by podman. As root; 6 min.
test-compose: install
	$(BIN)/pytest -m compose tests/compose

# Others' clients, unchanged, and clients that others' tools make of the OpenAPI document, against the running service.
test-clients: install
	$(BIN)/pytest -m clients tests/clients tests/stores --record tests/clients/results.json

# What the images install, with the hashes that PyPI tells of each file. With Python 3.11, as the images have, and
# TORCH_INDEX_URL=… (PyTorch's index of CPU builds), or the CPU's list has what CUDA needs.
lock: export CUSTOM_COMPILE_COMMAND = make lock
lock: COMPILE = $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --annotation-style line \
	--no-emit-index-url --no-emit-find-links --constraint constraints.txt --extra image pyproject.toml
lock: .venv/.release
	$(COMPILE) --extra otel --allow-unsafe --output-file $(LOCKS)/api.txt
	$(COMPILE) --extra otel --extra worker --allow-unsafe --output-file $(LOCKS)/worker-cuda.txt
	PIP_EXTRA_INDEX_URL=$(TORCH_INDEX_URL) $(COMPILE) --extra otel --extra worker --unsafe-package torch --output-file $(LOCKS)/worker-cpu.txt

# The digest that each image's tag has now, into the files that name it.
pin:
	$(PYTHON) deploy/pin_images.py

# What the images install, as CycloneDX lists it, for scanners.
sbom: export PYTHONWARNINGS = ignore
sbom: .venv/.release
	mkdir -p sbom
	for image in api worker-cpu worker-cuda; do \
		$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file sbom/$$image.cdx.json $(LOCKS)/$$image.txt || exit; \
	done

.venv/.release: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[release]'
	touch $@

# Prometheus' rules as the Prometheus Operator takes them: their file, indented, below the head that is there.
deploy/kubernetes/monitoring/rules.yaml: deploy/prometheus/rules.yml
	{ sed '/^spec:/q' $@; sed 's/./  &/' $<; } > $@.new
	mv $@.new $@

# The README's contact sheet, drawn again.
gallery: install
	$(BIN)/python -m bench.gallery

clean:
	rm -rf .venv .clients .zimage out
