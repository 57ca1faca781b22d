#!/usr/bin/env bash
# Distil the model of moving digits to few steps without guidance, and measure it at 2, 4 and 8 of them. What is there
# already is not made again, and a training that was stopped goes on from its last checkpoint: the same command continues.
# Usage: scripts/distill_digits.sh [FOLDER [FLAGS]], with a folder of MNIST's idx files (data/mnist if it is not given, or
# scikit-learn's digits if that is not there either), and flags of the training, such as --train.updates=20.
# EVALUATE is flags of every evaluation.
set -euo pipefail
cd "$(dirname "$0")/.."
mnist=${1:-data/mnist}
shift $(($# > 0))
source scripts/handwriting.sh
if [ -z "${VIRTUAL_ENV-}" ]; then
    bash scripts/setup.sh digits
    source .venv/bin/activate
fi
out=outputs/digits/consistency
[ -f $out/model.safetensors ] ||
    svd train --config=configs/digits/consistency.yaml --train.resume=auto \
        --train.dataset.init_args.source="$handwriting" "$@"
for steps in 2 4 8; do
    # shellcheck disable=SC2086
    [ -f $out/evaluation_$steps/metrics.json ] ||
        svd digits evaluate --SVD.checkpoint=$out/model.safetensors --SVD.sampling_steps=$steps \
            --data.source="$handwriting" --out_dir=$out/evaluation_$steps ${EVALUATE-}
done
