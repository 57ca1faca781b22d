"""Images, videos and cached latents on disk, and the arrays that they are loaded as."""
