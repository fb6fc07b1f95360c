# Every command there is. `make` alone lists them.
# Nothing here uses an ambient KUBECONFIG: `make demo CONTEXT=<name>` opts in to a cluster of yours.

PYTHON ?= python3
VENV   := .venv/bin
EXPERTS ?= 100 1000 3000
export CONTEXT CONFIRM DATA

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test mutants bench lint fmt crds cluster cluster-down images tools doctor venv

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: ## the whole loop on a real Kubernetes; DATA=movielens for real people's data, CONTEXT=<name> for your cluster
	@$(PYTHON) -m dev.launch demo

demo-down: ## remove everything that the demo made
	@$(PYTHON) -m dev.launch demo-down

test: ## every test: unit, integration with a real kube-apiserver, end to end on the real node
	@$(PYTHON) -m dev.launch test

mutants: venv ## break the code on purpose, a small change at a time, and print which ones no unit test notices
	@$(VENV)/python -m dev.mutants

bench: venv tools ## every benchmark, with its figures; EXPERTS="100 1000 3000" are the sizes of the fleet
	@for each in $(filter-out tests/benchmarks/bench_fleet.py,$(wildcard tests/benchmarks/bench_*.py)); do \
	  echo "== $$each" && $(VENV)/python $$each || exit 1; done
	@for each in $(EXPERTS); do \
	  echo "== a fleet of $$each" && $(VENV)/python tests/benchmarks/bench_fleet.py --experts $$each || exit 1; done

lint: venv ## ruff, mypy --strict, import-linter, generated files up to date
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy api cli model operator server trainer dev tests/benchmarks examples/bad-server/main.py
	@$(VENV)/lint-imports
	@$(VENV)/python -m recast_api.crd --check
	@$(VENV)/python -m recast_api.reference --check

fmt: venv ## format the code
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

crds: venv ## write crds/ and docs/reference.md anew from the pydantic models
	@$(VENV)/python -m recast_api.crd
	@$(VENV)/python -m recast_api.reference

cluster: ## start the single-node Kubernetes; kubeconfig at .cluster/kubeconfig
	@$(PYTHON) -m dev.cluster up

cluster-down: ## stop it and remove what it made
	@$(PYTHON) -m dev.cluster down

images: ## build the images and load them into the node, without a registry
	@$(PYTHON) -m dev.cluster images

tools: ## build or find Kubernetes, etcd, Helm, containerd, Prometheus, Redis
	@$(PYTHON) -m dev.cluster tools

doctor: ## say all that this machine lacks, each with its fix
	@$(PYTHON) -m dev.doctor

venv:
	@$(PYTHON) -m dev.venv
