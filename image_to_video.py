"""Turn images into videos with Stable Video Diffusion (svd_tools/image_to_video.py)."""

if __name__ == "__main__":
    from svd.cli import start

    start("image-to-video")
