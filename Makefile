# Everything needs Python 3.11 or newer, git and make; the rest is set up in .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait for processes and the disk half of their time: four at once keep two cores busy.
WORKERS ?= 4
# As people have it: what Python compiled of a module is there when the module is loaded again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help bubblewrap chromium slurm outside demo test test-kubernetes simulate soak mutate check lint types validate bench docs clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group check
	@touch $@

# Tests of the sandbox need it; where it is missing and nobody is root, they skip and say so.
bubblewrap:
	@command -v bwrap > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null \
		|| apt-get install -qq -y bubblewrap > /dev/null \
		|| { apt-get update -qq && apt-get install -qq -y bubblewrap > /dev/null; } \
		|| echo "bubblewrap could not be installed; tests of the sandbox will skip"

# Tests of pages look at them with it; where it is missing and nobody is root, they skip and say so.
# One after the other: two installations at once would be in each other's way.
chromium: | bubblewrap
	@command -v chromium > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null \
		|| apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core > /dev/null \
		|| { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core > /dev/null; } \
		|| echo "chromium could not be installed; tests that look at pages will skip"

# Tests of the engine slurm start a cluster with it; where it is missing and nobody is root, they skip and say so.
slurm:
	@command -v slurmd > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null \
		|| apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client munge > /dev/null \
		|| { apt-get update -qq && apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client munge > /dev/null; } \
		|| echo "Slurm could not be installed; tests of the engine slurm will skip"

# What checks and runs the files for forges; where a registry does not give it, its tests skip and say so.
outside: $(VENV)/installed
	@test -e $(VENV)/outside || { $(BIN)/python -m pip install --quiet --group outside && touch $(VENV)/outside; } \
		|| echo "act, zizmor, pre-commit or check-jsonschema could not be installed; tests of files for forges will skip"

demo: $(VENV)/installed ## Turn a committed request into committed evidence, on this project's own checks
	$(BIN)/python docs/demo.py

test: $(VENV)/installed bubblewrap chromium slurm outside ## Run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q

# No other target asks a cluster, whatever KUBECONFIG says there. CONTROL_PLANE is a directory with etcd, kube-apiserver
# and kube-controller-manager, to be started here instead.
CLUSTER_TESTS := $(BIN)/python -m pytest -q -rs -n 0 tests/kubernetes/test_cluster.py tests/kubernetes/test_evidence.py
test-kubernetes: $(VENV)/installed ## Try the engine at the cluster that KUBECONFIG names, or at CONTROL_PLANE=DIRECTORY
	@test -n "$$KUBECONFIG$(CONTROL_PLANE)" || echo "skipped: neither KUBECONFIG nor CONTROL_PLANE names a cluster"
	@test -z "$$KUBECONFIG" || RECONCILER_TESTS_CLUSTER="$$KUBECONFIG" $(CLUSTER_TESTS)
	@test -z "$(CONTROL_PLANE)" || $(BIN)/python -m tests.kubernetes.control_plane "$(CONTROL_PLANE)" $(CLUSTER_TESTS)

SEEDS ?= 0:20000
simulate: $(VENV)/installed ## Tell the histories of SEEDS=FIRST:LAST, with every fault there is
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) -j $(WORKERS)

soak: $(VENV)/installed ## Kill at random 300 times; share 200 requests between 20 reconcilers
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -rP tests/soak.py

mutate: $(VENV)/installed ## Break the code on purpose, one error at a time; each must be noticed
	$(BIN)/python -m tests.simulation.mutations

check: lint types validate test ## What continuous integration runs

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

validate: $(VENV)/installed
	$(BIN)/reconciler validate

bench: $(VENV)/installed ## Measure, with a reference in the same run
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/remote.py
	$(BIN)/python benchmarks/watch.py
	$(BIN)/python benchmarks/kubernetes.py

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

docs: $(VENV)/docs-installed ## Write the generated reference pages, and the site into build/site
	$(BIN)/python docs/reference/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

clean: ## Remove what was set up here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
