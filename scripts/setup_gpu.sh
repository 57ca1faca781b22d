#!/usr/bin/env bash
# Make a virtual environment in .venv in which MindSpore finds CUDA: from packages, without a CUDA toolkit and without
# root. What it needs of the machine is the driver (nvidia-smi works). Usage: scripts/setup_gpu.sh [EXTRAS], as setup.sh
#
# MindSpore's wheel is built for CUDA 11.6. It asks $CUDA_HOME/bin/nvcc which version is there and loads the libraries by
# name; no package has that compiler, and nothing is compiled with it, so that what answers here is a script.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh "gpu${1:+,$1}"
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
cuda=$PWD/.venv/cuda
rm -rf "$cuda"
mkdir -p "$cuda/bin" "$cuda/lib64"
ln -s "$packages"/*/lib/*.so* "$cuda/lib64"
ln -s "$packages"/cuda_runtime/lib/libcudart.so.11.0 "$cuda/lib64/libcudart.so.11.6.55" # the name that says 11.6
cat > "$cuda/bin/nvcc" << 'END'
#!/bin/sh
echo "Cuda compilation tools, release 11.6, V11.6.124"
END
chmod +x "$cuda/bin/nvcc"
if ! grep -q CUDA_HOME .venv/bin/activate; then
    cat >> .venv/bin/activate << 'END'
# CUDA for MindSpore (scripts/setup_gpu.sh)
export CUDA_HOME="$VIRTUAL_ENV/cuda"
export LD_LIBRARY_PATH="$CUDA_HOME/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
END
fi
source .venv/bin/activate
if python -c 'from svd import runtime; runtime.setup("GPU")' 2> "$cuda/log"; then
    echo "MindSpore can use the GPU; from now on: source .venv/bin/activate"
else
    echo "MindSpore cannot use a GPU here: look whether nvidia-smi shows one, with a driver of 450.80 or newer, and at" \
        "what MindSpore said, $cuda/log" >&2
    exit 1
fi
