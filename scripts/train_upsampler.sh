#!/usr/bin/env bash
# Train a small upsampler of moving digits from nothing, 16 x 16 to 64 x 64 pixels: single frames first, then temporal
# layers between; and evaluate it (docs/upsampling.md). What is there already is not made again, and a stage that was
# stopped goes on from its last checkpoint: the same command continues.
# CLIPS (128) is how many clips it is evaluated on.
# Usage: scripts/train_upsampler.sh [FLAGS of every training, such as --train.updates=20]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV-}" ]; then
    bash scripts/setup.sh digits
    source .venv/bin/activate
fi
out=outputs/upsampler

stage() { # NAME [FLAGS]: a training, as configs/digits/upsampler_NAME.yaml says
    [ -f "$out/$1/model.safetensors" ] ||
        svd train --config="configs/digits/upsampler_$1.yaml" --train.resume=auto "${@:2}"
}
[ -f $out/image_initial.safetensors ] ||
    svd initialize --config configs/digits/upsampler_image_model.yaml --out $out/image_initial.safetensors
stage image "$@"
[ -f $out/video_initial.safetensors ] ||
    svd initialize --config configs/digits/upsampler_video_model.yaml --image_model $out/image/model.safetensors \
        --out $out/video_initial.safetensors
stage video "$@"
svd digits upsampler --checkpoint $out/video/model.safetensors --out_dir $out/evaluation --clips "${CLIPS:-128}"
