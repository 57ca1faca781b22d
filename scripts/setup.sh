#!/usr/bin/env bash
# Make a virtual environment in .venv with the project in it. Usage: scripts/setup.sh [EXTRAS], such as test,parity
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-}
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then
    echo "MindSpore needs Python 3.10 to 3.12; set PYTHON to one" >&2
    exit 1
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
# What was installed is noted, so that a second run starts at once.
wanted="$(cksum < pyproject.toml) [$extras]"
if [ "$(cat .venv/installed 2>/dev/null || true)" != "$wanted" ]; then
    echo "installing into .venv (a few minutes the first time) ..."
    # Errors alone are shown: what pip and setuptools warn of is not for who only wants to use the project.
    .venv/bin/python -m pip install -qq --upgrade pip
    .venv/bin/python -m pip install -qq --editable ".${extras:+[$extras]}"
    echo "$wanted" > .venv/installed
fi
