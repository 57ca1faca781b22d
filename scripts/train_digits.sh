#!/usr/bin/env bash
# Train the small model of moving digits from nothing, and evaluate it (docs/digits.md). What is there already is not
# made again, and a stage that was stopped goes on from its last checkpoint: the same command continues.
# Usage: scripts/train_digits.sh [MNIST], with a folder of MNIST's idx files to learn from those digits.
set -euo pipefail
handwriting=$([ $# = 0 ] && echo sklearn || realpath "$1")
cd "$(dirname "$0")/.."
bash scripts/setup.sh digits
source .venv/bin/activate
out=outputs/digits

stage() { # NAME BEFORE [FLAGS]: a training, as configs/digits/NAME.yaml says, which begins with the weights BEFORE
    if [ -e "$out/$1/config.yaml" ] && [ "$out/$2" -nt "$out/$1/config.yaml" ]; then
        echo "$out/$1 began before $out/$2 was made: move it and the stages after it away, to train them again" >&2
        exit 1
    fi
    [ -f "$out/$1/model.safetensors" ] ||
        python train.py --config="configs/digits/$1.yaml" --train.resume=auto "${@:3}"
}
source_flag=--train.dataset.init_args.source=$handwriting

[ -f $out/initial.safetensors ] ||
    python svd_tools/initialize.py --config configs/digits/model.yaml --out $out/initial.safetensors
stage autoencoder initial.safetensors "$source_flag"
stage image_encoder autoencoder/model.safetensors "$source_flag"
python svd_tools/make_digits.py --out_dir $out/videos --clips 4000 --varied 0.5 --source "$handwriting"
python svd_tools/motion_bucket.py $out/videos --out $out/videos.csv
python svd_tools/encode_latents.py --out $out/latents --config configs/digits/latents.yaml --passes 2
stage image_model image_encoder/model.safetensors
stage video_model image_model/model.safetensors
stage temporal_decoder video_model/model.safetensors "$source_flag"
python svd_tools/convert.py --pt_weights_file $out/temporal_decoder/model.safetensors \
    --config configs/digits/model.yaml --out_dir $out/fp16 --dtype fp16 --overwrite
[ -f $out/judge.safetensors ] ||
    svd digits train-judge --out $out/judge.safetensors --source "$handwriting"
evaluate() { # NAME [FLAGS]
    python svd_tools/evaluate.py --SVD.checkpoint=$out/fp16/model.safetensors --judge=$out/judge.safetensors \
        --data.source="$handwriting" --control_pictures=8 --out_dir="$out/$1" "${@:2}"
}
evaluate evaluation
evaluate evaluation_image_model --image_model
