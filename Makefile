# Now Serving. `make` lists what can be done.

# The first Python that is 3.11 or newer; `make PYTHON=/path/to/python3` chooses another.
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV_PACKAGE = $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))
PIP = .venv/bin/python -m pip -qq --disable-pip-version-check

# $(call packages,NAMES): from the system's packages, when we may; else say what to install.
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
packages = { command -v apt-get >/dev/null \
	&& $(SUDO) apt-get -qq update >/dev/null \
	&& $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
		--no-install-recommends $(1) >/dev/null; } \
	|| { echo 'Please install: $(1)' >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help install run test check format bench

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/make \1 -/p' Makefile

install: .venv/.installed-dev  ## virtual environment with requirements.txt and requirements-dev.txt

run: .venv/.installed  ## everything a fresh machine lacks, then the app on its embedded default
	@exec .venv/bin/python app.py serve $(OPTIONS)

test: .venv/.installed-dev .browser-and-servers  ## everything a fresh machine lacks, then the tests
	@.venv/bin/python -m pytest $(OPTIONS)

check: .venv/.installed-dev  ## lint, format and types: what CI runs before the tests
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

format: .venv/.installed-dev  ## ruff's formatter and safe fixes
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

bench: .venv/.installed-bench .bench-tools  ## what the two lines cost, beside others of their kind
	@.venv/bin/python -m bench $(OPTIONS)

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { echo 'Now Serving needs Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call packages,$(VENV_PACKAGE))
	@$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt | .venv/bin/python
	@echo 'Installing requirements.txt into .venv' >&2
	@$(PIP) install -r requirements.txt && touch $@

.venv/.installed-dev: requirements-dev.txt .venv/.installed
	@echo 'Installing requirements-dev.txt into .venv' >&2
	@$(PIP) install -r requirements-dev.txt && touch $@

.venv/.installed-bench: requirements-bench.txt .venv/.installed-dev
	@echo 'Installing requirements-bench.txt into .venv' >&2
	@$(PIP) install -r requirements-bench.txt && touch $@

# The tests start their own servers and browser, on free ports; the font draws Chinese.
# MariaDB's two packages are programs only; Debian's postgresql may start one on its own port.
.PHONY: .browser-and-servers
.browser-and-servers:
	@{ command -v memcached && command -v beanstalkd && PATH="$$PATH:/usr/sbin" command -v mariadbd && command -v mariadb-install-db \
		&& command -v my_print_defaults && ls /usr/lib/postgresql/*/bin/initdb \
		&& command -v chromium && command -v chromedriver \
		&& test -e /usr/share/fonts/truetype/wqy/wqy-microhei.ttc; } >/dev/null 2>&1 \
	|| $(call packages,memcached beanstalkd mariadb-server-core mariadb-client-core postgresql chromium \
		chromium-driver fonts-wqy-microhei)

.PHONY: .bench-tools
.bench-tools:
	@{ command -v memcached && command -v wrk && command -v taskset \
		&& command -v beanstalkd && command -v strace; } >/dev/null \
	|| $(call packages,memcached wrk util-linux beanstalkd strace)
