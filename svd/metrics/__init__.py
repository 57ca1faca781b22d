"""How good videos are."""
