# What `bash binder/try` and `bash tests/run` share; they source it, from the project's folder.
# shellcheck shell=bash

say() { echo "==> $*" >&2; }
die() { printf '%s\n' "$@" >&2; exit 1; }

# setup NAME PIP-ARGUMENTS…: RabbitMQ from the system's packages, and a virtual environment in .venv that holds
# what pip is told to install. Calls neither apt nor pip where all is there and pyproject.toml is as it was.
setup() {
  local stamp=.venv/nbmr-$1.stamp key missing=()
  shift
  rabbitmq_found || missing+=(rabbitmq-server)
  if ! venv_works; then
    if find_python; then
      "$python" -c 'import ensurepip' 2>/dev/null || missing+=("python$(python_version)-venv")
    elif command -v apt-get >/dev/null && command -v python3 >/dev/null; then
      old_python # this release has no newer one under that name
    else
      missing+=(python3 python3-venv)
    fi
  fi
  [ "${#missing[@]}" = 0 ] || install "${missing[@]}"
  rabbitmq_found || die "RabbitMQ is still missing; see above."

  if ! venv_works; then
    find_python || old_python
    say "Making a virtual environment in .venv, with Python $(python_version)"
    "$python" -m venv --clear .venv
  fi
  key="$PWD, $(.venv/bin/python --version), $(cat pyproject.toml tests/lowest.txt | cksum), $*"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
    say "Installing nbmr and what it needs into .venv (a minute or two, the first time)"
    .venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1' # the first that knows --group
    .venv/bin/python -m pip install --quiet "$@"
    echo "$key" >"$stamp"
  fi
}

rabbitmq_found() {
  [ -n "${NBMR_RABBITMQ_SERVER:-}" ] || compgen -G '/opt/rabbitmq*/sbin/rabbitmq-server' >/dev/null ||
    PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin" command -v rabbitmq-server >/dev/null
}

# Not if the folder was moved or copied: the programs in .venv/bin name the place that they were installed in.
venv_works() { grep -qsF "$PWD/.venv/bin/" .venv/bin/pip && .venv/bin/python -c 'import pip' 2>/dev/null; }

# Sets $python to one that is new enough. (A name on PATH may be a shim that runs nothing.)
find_python() {
  for python in python3 python3.14 python3.13 python3.12 python3.11; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
  done
  return 1
}

python_version() { "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

old_python() {
  die "nbmr needs Python 3.11 or newer; this machine has $(python3 --version)." \
    "Debian 12, Ubuntu 24.04 and their successors have it. Elsewhere install python3.11 (or newer) with its" \
    "venv module so that it is on PATH, and run this again."
}

# install PACKAGE…: by apt; elsewhere says what to install.
install() {
  if [ "$(uname)" = Darwin ]; then
    die "Missing: $*. Run this, and try again:" "  brew install rabbitmq python@3.13"
  elif ! command -v apt-get >/dev/null; then
    die "Missing: $*. Run the line for your system, and try again:" \
      "  sudo dnf install rabbitmq-server python3" \
      "  sudo pacman -S rabbitmq python" \
      "  sudo zypper install rabbitmq-server python313" \
      "or install RabbitMQ 3.10 or newer and Python 3.11 or newer by hand."
  fi
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
      die "Missing: $*. There is no sudo here: run this as root, and try again:" "  apt-get install $*"
    root=(sudo)
  fi
  say "Installing from the system's packages: $*"
  "${root[@]}" sh -c "$apt_install" apt-install "$@" || say "apt-get failed; going on with what is there"
}

# shellcheck disable=SC2016 # expanded by the sh that runs it
apt_install='
  # The package would start a service, which nbmr does not use, and wait long where it cannot start.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap "rm -f $policy" EXIT INT TERM HUP
    printf "#!/bin/sh\nexit 101\n" >"$policy"
    chmod 755 "$policy"
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq --no-install-recommends "$@" >/dev/null
'
