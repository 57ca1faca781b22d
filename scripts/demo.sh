#!/usr/bin/env bash
# From nothing to a video: install, and turn a picture of a handwritten digit into a video with the small model that
# comes with the project. Another picture: scripts/demo.sh PICTURE
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
picture=$(realpath "${1:-$project/assets/three.png}")
cd "$project"
bash scripts/setup.sh
source .venv/bin/activate
python image_to_video.py --image "$picture" --output_dir outputs/demo
