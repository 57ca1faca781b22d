"""Conditioning: the image, and the numbers that describe the motion of the video."""
