"""Train Stable Video Diffusion (svd_tools/train.py)."""

if __name__ == "__main__":
    from svd.cli import start

    start("train")
