# make study   the study from nothing: environment, check, audit, notebooks, book; prints where the book is
# make test    ruff, mypy, clean notebooks, pytest with the book in a browser
# make book    the book alone, from committed records
# make clean   what was built; make distclean: the environment too
#
# make study SCALE=smoke          a random model, minutes, no records
# make study SCALE=tiny FRESH=1   every run again, into a new store under fresh/

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
SCALE ?= tiny
FRESH ?=
SAMPLE ?= 6

BIN := $(VENV)/bin
MMPEFT := $(BIN)/python -m mmpeft
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
STORE := fresh/$(SCALE)-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help study test book clean distclean install browser
.DELETE_ON_ERROR:

help:
	@sed -n '1,7s/^# \{0,1\}//p' Makefile

# The environment: torch by itself first, so that nothing else chooses its build. Quick when nothing changed.

install: $(INSTALLED)

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make study PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH)"
	@$(PIP) install -q $(TORCH)
	@touch $@

$(INSTALLED): $(VENV)/.torch requirements.txt pyproject.toml
	@echo "installing requirements.txt (two minutes)"
	@$(PIP) install -q -r requirements.txt
	@$(PIP) install -q --no-deps -e .
	@$(PIP) check
	@touch $@

study: $(INSTALLED)
	$(MMPEFT) doctor
ifneq ($(FRESH),)
	$(MMPEFT) run --all --scale $(SCALE) --store $(STORE) --workers $(CORES) || test $$? = 1  # a failed run is a row of its table
	$(MMPEFT) book --scale $(SCALE) --store $(STORE)
else
ifneq ($(SCALE),smoke)
	$(MMPEFT) audit --scale $(SCALE) --sample $(SAMPLE) --workers $(CORES)
endif
	$(MMPEFT) book --scale $(SCALE)
endif
	@echo "open book/_build/html/index.html"
	@echo "for the commands: . $(BIN)/activate, then mmpeft --help"

book: $(INSTALLED)
	$(MMPEFT) book --scale $(SCALE)

test: $(INSTALLED) browser
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb
	$(BIN)/python -m pytest -n auto --dist loadfile

# A browser looks at the built book; without one those tests are skipped, and pytest says so.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing chromium"; \
		apt-get update -q && apt-get install -q -y --no-install-recommends chromium chromium-driver \
			|| echo "chromium could not be installed: the browser tests will be skipped"; \
	else echo "no chromium here, and only root may install it: the browser tests will be skipped"; fi

clean:
	rm -rf book/_build book/_executed build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find mmpeft tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
