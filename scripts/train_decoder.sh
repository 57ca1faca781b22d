#!/usr/bin/env bash
# Train video decoders on small videos from nothing, by one loss more each, and compare them (docs/training.md): of
# moving digits, or of the videos in a folder, at 64 x 64. What is there already is not made again, and a stage that was
# stopped goes on from its last checkpoint: the same command continues. LPIPS=FILE, as `svd convert-lpips` writes it,
# takes the place of structural similarity.
# Usage: scripts/train_decoder.sh [FOLDER [FOLDER OF OTHER VIDEOS TO COMPARE WITH]] [FLAGS, such as --train.updates=20]
set -euo pipefail
videos="" others=""
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
    videos=$(realpath "$1") others=$videos
    shift
fi
if [ -n "$videos" ] && [ $# -gt 0 ] && [[ $1 != --* ]]; then
    others=$(realpath "$1")
    shift
fi
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV-}" ]; then
    bash scripts/setup.sh digits
    source .venv/bin/activate
fi
perceptual=(--train.loss.perceptual=ssim)
[ -z "${LPIPS-}" ] || perceptual=(--train.loss.perceptual=lpips "--train.loss.lpips=$LPIPS")
against=(--train.discriminator.channels=32)
if [ -z "$videos" ]; then
    out=outputs/decoder_digits frames=1
    learned=(--train.dataset=MovingDigits --train.dataset.init_args.clips=1000000 --train.dataset.init_args.varied=0.5)
    compared=(--data=MovingDigits --data.init_args.part=test --data.init_args.varied=0.5)
else
    out=outputs/decoder_videos frames=2
    mkdir -p $out
    svd motion-bucket "$videos" --out $out/videos.csv
    [ "$others" = "$videos" ] || svd motion-bucket "$others" --out $out/others.csv
    csv=$([ "$others" = "$videos" ] && echo $out/videos.csv || echo $out/others.csv)
    size() { echo "--$1.init_args.height=64 --$1.init_args.width=64"; }
    # shellcheck disable=SC2207 # flags without blanks
    learned=(--train.dataset=VideoDataset "--train.dataset.init_args.metadata=$out/videos.csv" $(size train.dataset))
    # shellcheck disable=SC2207
    compared=(--data=VideoDataset "--data.init_args.metadata=$csv" $(size data))
fi

stage() { # NAME CONFIG BEFORE FRAMES [FLAGS]: a training that begins with the weights BEFORE
    [ -f "$out/$1/model.safetensors" ] ||
        svd train --config="configs/digits/$2.yaml" --train.pretrained="$3" --train.output_dir="$out/$1" \
            --train.resume=auto "${learned[@]}" --train.dataset.init_args.frames="$4" "${@:5}"
}
[ -f $out/initial.safetensors ] || svd initialize --config configs/digits/model.yaml --out $out/initial.safetensors
stage image decoder_image $out/initial.safetensors $frames "$@"
image=$out/image/model.safetensors
stage error decoder_video $image 8 "$@"
stage perceptual decoder_video $image 8 "${perceptual[@]}" "$@"
stage discriminator decoder_video $image 8 "${perceptual[@]}" "${against[@]}" --train.discriminator.kind=temporal "$@"
stage both decoder_video $image 8 "${perceptual[@]}" "${against[@]}" --train.discriminator.kind=both "$@"
models=()
for name in image error perceptual discriminator both; do
    models+=("$out/$name/model.safetensors")
done
svd evaluate-decoder --checkpoint "${models[@]}" "${compared[@]}" --data.init_args.frames=14 --out_dir $out/evaluation
