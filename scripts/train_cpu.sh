#!/usr/bin/env bash
# Train with several processes on this machine's CPU (CARDS, 2 if not set): bash scripts/train_cpu.sh OPTIONS_OF_TRAIN.PY
set -euo pipefail
export CARDS=${CARDS:-2}
exec bash "$(dirname "$0")/train_ascend.sh" --environment.device_target=CPU "$@"
