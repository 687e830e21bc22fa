#!/bin/sh
# Create a virtual environment: venv.sh PYTHON DIRECTORY. Does nothing where a working one exists.
set -eu
python=$1
directory=$2

if "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi
command -v "$python" >/dev/null || {
    echo "$python is missing: install Python 3.11 or later (Debian: apt-get install python3 python3-venv)," \
        "or name one: make PYTHON=/path/to/python3" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is $("$python" -V): Nexus needs Python 3.11 or later; name one: make PYTHON=/path/to/python3" >&2
    exit 1
}
rm -rf "$directory"
if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
    "$python" -m venv "$directory"
elif "$python" -c 'import virtualenv' >/dev/null 2>&1; then
    "$python" -m virtualenv --quiet "$directory"
elif "$python" -m pip --version >/dev/null 2>&1; then
    # Debian splits ensurepip off into a package of its own; virtualenv carries pip with it.
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    "$python" -m pip install --quiet --disable-pip-version-check --target "$tools" virtualenv
    PYTHONPATH=$tools "$python" -m virtualenv --quiet "$directory"
else
    echo "$python cannot make virtual environments: apt-get install python3-venv" >&2
    exit 1
fi
