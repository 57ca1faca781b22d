"""Set-up, demonstrations, tests, launching and benchmarks: the product imports nothing of it."""
