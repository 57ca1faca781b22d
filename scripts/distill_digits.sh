#!/usr/bin/env bash
# Distil the model of moving digits to few steps without guidance, and measure it at 2, 4 and 8 of them. A training that
# was stopped goes on from its last checkpoint: the same command continues.
# Usage: scripts/distill_digits.sh [FOLDER [FLAGS]], with a folder of MNIST's idx files (data/mnist if it is not given, or
# `sklearn`), and flags of the training, such as --train.updates=20. EVALUATE is flags of every evaluation.
set -euo pipefail
cd "$(dirname "$0")/.."
handwriting=${1:-data/mnist}
shift $(($# > 0))
[ "$handwriting" = sklearn ] || handwriting=$(realpath -e "$handwriting")
out=outputs/digits/consistency
[ -f $out/model.safetensors ] ||
    svd train --config=configs/digits/consistency.yaml --train.resume=auto \
        --train.dataset.init_args.source="$handwriting" "$@"
for steps in 2 4 8; do
    # shellcheck disable=SC2086
    svd digits evaluate --SVD.checkpoint=$out/model.safetensors --SVD.sampling_steps=$steps \
        --judge=assets/digits/judge.safetensors --data.source="$handwriting" --out_dir="$out/evaluation_$steps" \
        ${EVALUATE-}
done
