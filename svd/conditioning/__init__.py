"""What the video is conditioned on: the image, and the numbers that describe its motion."""
