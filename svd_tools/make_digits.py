"""Write videos of handwritten digits that bounce in a square (svd_tools/digits/make.py)."""

if __name__ == "__main__":
    from svd.cli import start

    start("make-digits")
