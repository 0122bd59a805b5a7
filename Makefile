# make lab: the lessons in JupyterLab.  make test: every check.  Both install into .venv first (once).
# Python 3.11 or newer is looked for; name another one with  make lab PYTHON=/path/to/python3

WORKS = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$p" -c '$(WORKS)' 2>/dev/null && { command -v "$$p"; break; }; done)
VENV = .venv/bin/python
READY = .venv/.ready
# Two processes, a thread each: more threads would wait for each other, and sums of floats depend on their number.
WORKERS = 2
PYTEST = OMP_NUM_THREADS=1 "$(VENV)" -m pytest -n $(WORKERS) --dist loadfile
PARTS = check test-package test-lessons

.PHONY: lab test check test-package test-lessons bench docs lock lock-check clean FORCE

lab: $(READY)
	"$(VENV)" -m facekit lab $(if $(WORK),--work "$(WORK)") $(OPTIONS)

# Every part in turn, and how long each took.
test: $(READY)
	@said=; for part in $(PARTS); do \
		began=$$(date +%s); $(MAKE) --no-print-directory $$part || exit; \
		said="$$said$$part $$(($$(date +%s) - began)) s, "; \
	done; echo "$${said%, }"

# Lint, format, types and the order of the layers. One of them: .venv/bin/python tests/gate.py types
check: $(READY)
	"$(VENV)" tests/gate.py

test-package: $(READY)
	$(PYTEST) tests

# The notebooks are those of the sources; every stored output, also of the solutions, is compared with a new one. The
# cells with which both copies begin are run once (lessons/conftest.py).
test-lessons: $(READY)
	"$(VENV)" -m facekit lessons check
	$(PYTEST) --nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with=tests/nbval_sanitize.cfg \
		lessons/*.ipynb lessons/solutions/*.ipynb

bench: $(READY)
	"$(VENV)" -m benchmarks

# The reference of the package, made from its docstrings, and the table of methods; begins at build/docs/index.html.
docs: $(READY)
	"$(VENV)" -m pdoc --docformat google facekit -o build/docs
	"$(VENV)" -m facekit methods --write build/docs/methods.md

# requirements.lock on every system and Python that it serves (lock-check), and written again from pyproject.toml with
# as few changes as that allows (lock). Both ask the package index, with uv, which gets an environment of its own.
UV = build/uv/bin/python

lock-check: $(UV)
	"$(UV)" tests/lock.py

lock: $(UV)
	"$(UV)" -m uv pip compile pyproject.toml --extra lab --extra dev --universal --python-version 3.11 \
		--no-header --no-annotate --quiet --output-file requirements.lock

$(UV):
	"$(PYTHON)" -m venv build/uv
	"$(UV)" -m pip install --quiet --disable-pip-version-check uv

# The folder's own path is kept in the stamp: an environment that was moved or copied is installed again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif

$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c '$(WORKS)' 2>/dev/null || { \
		echo "Python 3.11 or newer with its module venv is needed, and was not found$(if $(PYTHON), as $(PYTHON))."; \
		echo "Install it (Debian and Ubuntu: python3 and python3-venv), or name it: make lab PYTHON=/path/to/python3"; \
		exit 1; }
	@test -x "$(VENV)" && "$(VENV)" -c '$(WORKS)' 2>/dev/null || "$(PYTHON)" -m venv --clear .venv
	@echo "Installing into .venv; the first time this takes some minutes."
	@"$(VENV)" -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@"$(VENV)" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@printf '%s' "$(CURDIR)" > "$(READY)"

clean:
	rm -rf .venv
