"""Images and videos on disk, and the arrays they become."""
