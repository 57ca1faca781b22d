#!/usr/bin/env bash
# Train the small models of long videos of moving digits, make one and evaluate them (docs/long_videos.md). They stand on
# the image model that scripts/train_words.sh trains: IMAGE_MODEL (outputs/words/text_to_image/model.safetensors). What is
# there already is not made again, and a stage that was stopped goes on from its last checkpoint: the same command
# continues. CLIPS (4000) is how many videos are learned from.
# Usage: scripts/train_long.sh [FLAGS of every training, such as --train.updates=20]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV-}" ]; then
    bash scripts/setup.sh digits
    source .venv/bin/activate
fi
out=outputs/long clips=${CLIPS:-4000} image=${IMAGE_MODEL:-outputs/words/text_to_image/model.safetensors}
[ -f "$image" ] || { echo "$image is missing: scripts/train_words.sh trains it" >&2; exit 2; }

svd make-digits --out_dir $out/videos --clips "$clips" --frames 224 --fps 28 --speed 0 1 --varied 0.5
for name in prediction interpolation; do
    [ -f $out/${name}_initial.safetensors ] ||
        svd initialize --config configs/digits/long_${name}_model.yaml --image_model "$image" \
            --out $out/${name}_initial.safetensors
    svd encode-latents --out $out/latents_$name --config configs/digits/long_${name}_latents.yaml
    [ -f $out/$name/model.safetensors ] ||
        svd train --config=configs/digits/long_$name.yaml --train.resume=auto "$@"
done
models=(--model.prediction=$out/prediction/model.safetensors --model.interpolation=$out/interpolation/model.safetensors)
svd long-video "${models[@]}" --image=assets/three.png --seconds=120 --sampling.motion_bucket_id=48 \
    --output_dir=$out/samples
svd long-video "${models[@]}" --prompt="a seven" --seconds=20 --sampling.motion_bucket_id=32 --output_dir=$out/samples
svd digits long --prediction $out/prediction/model.safetensors --interpolation $out/interpolation/model.safetensors \
    --out_dir $out/evaluation
