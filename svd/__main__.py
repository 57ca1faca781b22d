"""The command `svd` without installation: python -m svd."""

from svd.cli.commands import main

if __name__ == "__main__":
    main()
