#!/usr/bin/env bash
# Install everything that the tests need, then check the style and run the tests; arguments go to pytest.
# On a card, what MindSpore needs for it has to be there (scripts/setup_gpu.sh, or CANN's set_env.sh):
#   scripts/test.sh --device GPU|Ascend [ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
processes=2
if [ "${1:-}" = --device ]; then
    export SVD_TEST_DEVICE=${2:?"GPU, Ascend or CPU"}
    shift 2
    [ "$SVD_TEST_DEVICE" = CPU ] || processes=0 # a card is for one process
fi
bash scripts/setup.sh test,parity
source .venv/bin/activate
ruff check .
ruff format --check .
if [ "${SVD_TEST_DEVICE:-CPU}" = CPU ]; then
    # A fifth of what MindSpore's compiler takes is glibc's malloc, which this one spares; the tests pass without it, too.
    python -m pip install -qq --no-deps "cmeel-mimalloc>=3" || echo "without mimalloc the tests take longer" >&2
    for library in "$PWD"/.venv/lib/python3*/site-packages/cmeel.prefix/lib/libmimalloc.so; do
        [ ! -e "$library" ] || export LD_PRELOAD="$library" MIMALLOC_PURGE_DELAY=-1
    done
fi
python -m pytest -n $processes --dist loadfile --no-loadscope-reorder "$@"
