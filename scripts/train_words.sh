#!/usr/bin/env bash
# Train the small models of words to moving digits from nothing, make videos and evaluate them (docs/training.md). What
# is there already is not made again, and a stage that was stopped goes on from its last checkpoint: the same command
# continues. CLIPS (8000) is how many videos are learned from.
# Usage: scripts/train_words.sh [FLAGS of every training, such as --train.updates=20]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV-}" ]; then
    bash scripts/setup.sh digits
    source .venv/bin/activate
fi
out=outputs/words clips=${CLIPS:-8000}

stage() { # NAME [FLAGS]: a training, as configs/digits/words_NAME.yaml says
    [ -f "$out/$1/model.safetensors" ] || svd train --config="configs/digits/words_$1.yaml" --train.resume=auto "${@:2}"
}
svd make-digits --out_dir $out/videos --clips "$clips" --frames 28 --varied 0.5
[ -f $out/initial.safetensors ] ||
    svd initialize --config configs/digits/words_image.yaml --captions $out/videos/videos.csv \
        --out $out/initial.safetensors
stage autoencoder --train.scale_clips=1000 "$@"
# From here on the model is what its checkpoint says: its latents' scale was measured.
svd encode-latents --out $out/latents --config configs/digits/words_latents.yaml --svd_config=null
stage close_up --svd_config=null "$@"
stage text_to_image --svd_config=null "$@"
[ -f $out/video_initial.safetensors ] ||
    svd initialize --config configs/digits/words_video.yaml --image_model $out/text_to_image/model.safetensors \
        --out $out/video_initial.safetensors
stage text_to_video --svd_config=null "$@"
stage inverted --svd_config=null "$@"
model=$out/text_to_video/model.safetensors inverted=$out/inverted/model.safetensors
prompts=("a three" "a seven and a two" "a fast five" "a slow eight")
svd text-to-video --model.checkpoint=$model --prompt "${prompts[@]}" --output_dir=$out/samples
svd text-to-video --model.checkpoint=$model --model.spatial=$inverted --prompt "${prompts[@]}" --output_dir=$out/samples
svd digits words --checkpoint $model --out_dir $out/evaluation
svd digits words --checkpoint $model --spatial $inverted --inverted --out_dir $out/evaluation_inverted
