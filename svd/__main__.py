"""The command `svd` of what is not installed: python -m svd."""

from svd.cli.commands import main

if __name__ == "__main__":
    main()
