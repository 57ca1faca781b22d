#!/usr/bin/env bash
# Install everything that the tests need, then check the style and run the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test,parity
source .venv/bin/activate
ruff check .
ruff format --check .
python -m pytest -n 2 --dist loadfile "$@"
