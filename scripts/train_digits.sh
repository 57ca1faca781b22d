#!/usr/bin/env bash
# Train the small model of moving digits from nothing, and evaluate it (docs/digits.md). What is there already is not
# made again, and a stage that was stopped goes on from its last checkpoint: the same command continues.
# Usage: scripts/train_digits.sh [FOLDER [FLAGS]], with a folder of MNIST's idx files (data/mnist if it is not given, or
# scikit-learn's digits if that is not there either), and flags of every training, such as --train.updates=20.
# CLIPS (12000) is how many videos are learned from; JUDGE, EVALUATE and SAMPLES are flags of the judge's training, of
# every evaluation, and of the videos of pictures.
set -euo pipefail
cd "$(dirname "$0")/.."
mnist=${1:-data/mnist}
shift $(($# > 0))
source scripts/handwriting.sh
if [ -z "${VIRTUAL_ENV-}" ]; then
    bash scripts/setup.sh digits
    source .venv/bin/activate
fi
out=outputs/digits clips=${CLIPS:-12000}

stage() { # NAME BEFORE [FLAGS]: a training, as configs/digits/NAME.yaml says, which begins with the weights BEFORE
    if [ -e "$out/$1/config.yaml" ] && [ "$out/$2" -nt "$out/$1/config.yaml" ]; then
        echo "$out/$1 began before $out/$2 was made: move it and the stages after it away, to train them again" >&2
        exit 1
    fi
    [ -f "$out/$1/model.safetensors" ] ||
        svd train --config="configs/digits/$1.yaml" --train.resume=auto "${@:3}"
}
of_clips=--train.dataset.init_args.source=$handwriting

[ -f $out/initial.safetensors ] ||
    svd initialize --config configs/digits/model.yaml --out $out/initial.safetensors --grey
stage autoencoder initial.safetensors "$of_clips" "$@"
stage image_encoder autoencoder/model.safetensors "$of_clips" "$@"
svd make-digits --out_dir $out/videos --clips "$clips" --frames 14 --speed 0 4.4 --natural 0.7 \
    --source "$handwriting"
svd encode-latents --out $out/latents --config configs/digits/latents.yaml
stage image_model image_encoder/model.safetensors "$@"
stage video_model image_model/model.safetensors "$@"
stage whole_unet video_model/model.safetensors "$@"
stage temporal_decoder whole_unet/model.safetensors "$of_clips" "$@"
half() { # FILE FOLDER: its weights in float16
    svd convert --pt_weights_file "$1" --config "$1" --out_dir "$2" --dtype fp16 --overwrite
}
half $out/temporal_decoder/model.safetensors $out/fp16
# shellcheck disable=SC2086
[ -f $out/judge.safetensors ] ||
    svd digits train-judge --out $out/judge.safetensors --source "$handwriting" ${JUDGE-}

# shellcheck disable=SC2086
evaluate() { # NAME CHECKPOINT [FLAGS]
    svd digits evaluate --SVD.checkpoint="$2" --judge=$out/judge.safetensors --data.source="$handwriting" \
        --out_dir="$out/$1" "${@:3}" ${EVALUATE-}
}
evaluate evaluation $out/fp16/model.safetensors --control_pictures=8
evaluate evaluation_natural $out/fp16/model.safetensors --clips=64 --control_pictures=1 --data.natural=1
# guidance costs every step twice: what 64 clips are without it
evaluate evaluation_unguided $out/fp16/model.safetensors --clips=64 --control_pictures=1 --SVD.guidance=1
half $out/image_model/model.safetensors $out/fp16_image_model
evaluate evaluation_image_model $out/fp16_image_model/model.safetensors --image_model --clips=64 --control_pictures=1
# shellcheck disable=SC2086
[ -d $out/samples ] ||
    svd image-to-video --SVD.checkpoint=$out/fp16/model.safetensors --prepare=digits --output_dir=$out/samples \
        --image assets/photographs assets/three.png assets/drawing.png assets/four_and_nine.png ${SAMPLES-}
# The curve over the training of all layers: of the first 32 clips, by the averaged weights of each checkpoint.
for checkpoint in $out/whole_unet/checkpoints/update_*; do
    at=$(basename "$checkpoint")
    compgen -G "$out/curve/$at/*.safetensors" > /dev/null ||
        svd export --checkpoint "$checkpoint" --out_dir "$out/curve/$at"
    evaluate "evaluation_$at" "$out/curve/$at/"*.safetensors --clips=32 --control_pictures=1
done
