# make lab: the lessons in JupyterLab.  make test: every check.  Both install into .venv first (once).
# Python 3.11 or newer is looked for; name another one with  make lab PYTHON=/path/to/python3

WORKS = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$p" -c '$(WORKS)' 2>/dev/null && { command -v "$$p"; break; }; done)
VENV = .venv/bin/python
READY = .venv/.ready
PYTEST = "$(VENV)" -m pytest

.PHONY: lab test test-package test-lessons bench clean FORCE

lab: $(READY)
	"$(VENV)" -m facekit lab $(OPTIONS)

test: test-package test-lessons

test-package: $(READY)
	$(PYTEST) tests

# The notebooks are those of the sources; every stored output, also of the solutions, is compared with a new one.
test-lessons: $(READY)
	"$(VENV)" -m facekit lessons check
	$(PYTEST) --nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with=tests/nbval_sanitize.cfg \
		lessons/*.ipynb lessons/solutions/*.ipynb

bench: $(READY)
	"$(VENV)" -m benchmarks

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
