"""Measuring folders of videos: which metrics there are, their clips, and what is gathered of them."""
