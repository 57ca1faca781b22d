#!/usr/bin/env bash
# From nothing to a video: install, convert the tiny model of the tests, turn a picture into a video with it, and
# compare the video with what Stability's own code makes of the same picture, noise and weights.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
source .venv/bin/activate
out=${1:-outputs/demo}
golden=tests/golden
[ -f "$out/weights.safetensors" ] ||
    python svd_tools/convert.py --pt_weights_file $golden/weights.safetensors --config $golden/config.yaml --out_dir "$out"
python image_to_video.py --SVD.config=$golden/config.yaml --SVD.checkpoint="$out/weights.safetensors" \
    --image=$golden/image.png --noise=$golden/noise.npz --output_dir="$out" --format mp4 gif png
python - "$out" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

newest = max(Path(sys.argv[1]).glob("*_frames"), key=lambda folder: folder.stat().st_mtime)
frames = np.stack([np.asarray(Image.open(path)) for path in sorted(newest.glob("*.png"))]) / 255
reference = np.load("tests/golden/values.npz")["video"].transpose(0, 2, 3, 1)
psnr = -10 * np.log10(np.mean((frames - reference) ** 2))
print(f"PSNR to the reference implementation's video: {psnr:.1f} dB")
sys.exit(int(psnr < 40))
PYTHON
