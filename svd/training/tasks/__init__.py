"""What can be trained: a file each."""
