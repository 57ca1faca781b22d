"""Work on many videos that can be interrupted and continued."""
