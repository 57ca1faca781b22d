"""The programs: every file directly in here can be run, also as `svd COMMAND`; what they share is in rooms below."""
