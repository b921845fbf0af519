# Two commands: `make certify` and `make test`. `make help` lists the rest.
# Torch: a plain install takes PyPI's build (on Linux with CUDA, some gigabytes). For the CPU build:
#   make certify TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
OUT    ?= reports
TORCH_INDEX ?=
BIN    := $(VENV)/bin
SUBJECTS ?= reference,torch,mlx,llama_cpp
MATRIX ?= $(SUBJECTS),llama_cpp:kv-f16,llama_cpp:kv-q8_0,llama_cpp:kv-q4_0

.PHONY: help setup certify test check walk nightly published selftest docs bench allure clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## environment, engines and llama.cpp (compiled once, cached in .engines)
	@$(PYTHON) tools/setup_env.py --venv $(VENV) --torch-index "$(TORCH_INDEX)"

certify: setup ## certify the four engines, measure the interop matrix, write certificates and the report
	@$(BIN)/zg-certify run --subject $(SUBJECTS) --matrix $(MATRIX) --level standard --require L4-x32 --jobs $(JOBS) --out $(OUT)/certify

test: setup ## everything that CI runs: the fast gate, then all tests on real engines
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests

check: ## the fast gate: format, lint, types, import contracts, tidy, core tests (under a minute)
	@$(BIN)/python tools/check.py

walk: ## two nodes, a completion, a tensor, their recordings replayed, a capture opened; half a minute (WALK=--help)
	@$(BIN)/python -c 'import cryptography, numpy, rich, scapy, simpy, zeitgeist, zstandard' 2>/dev/null || { \
		echo "walk: installing what it needs into $(VENV) …"; $(PYTHON) -m venv $(VENV) \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[node,sim,capture]'; }
	@$(BIN)/python tools/walk.py --out $(OUT)/walk $(WALK)

nightly: setup ## the long one: full level, every mutant, honest variants on 10 seeds, fuzzing; writes docs/nightly/DATE.md
	@$(BIN)/python tools/nightly.py

published: setup ## certify engines as they are published; what the suite finds is the report (a FAIL here is a finding)
	@$(BIN)/zg-certify run --subject mlx:raw,llama_cpp:stock,llama_cpp:fa,llama_cpp:kv-q8_0 --level standard --jobs $(JOBS) --out $(OUT)/published

selftest: ## planted bugs and honest variants; publishes the kill score that certificates carry
	@$(BIN)/zg-certify selftest --seeds 3 --jobs $(JOBS) --publish

docs: ## regenerate the tables of docs/spec from the code
	@$(BIN)/python tools/docs.py

bench: ## benchmarks against memcpy and recomputation; writes docs/benchmarks.md tables
	@$(BIN)/python benchmarks/run.py

allure: ## one self-contained Allure page from the last run's results
	@$(BIN)/python tools/allure_page.py --results $(OUT)/certify/allure-results --out $(OUT)/certify/allure.html

clean: ## remove reports and caches, keep the environment and the compiled engine
	@rm -rf $(OUT) .pytest_cache .ruff_cache .import_linter_cache .hypothesis
