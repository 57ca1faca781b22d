"""Measure a model of moving digits (svd_tools/digits/evaluate.py)."""

if __name__ == "__main__":
    from svd.cli import start

    start("evaluate")
