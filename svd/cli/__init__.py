"""What all programs share: signals, streams, one line for what is wrong, exit codes, options; and the command `svd`."""

from svd.cli.commands import start
from svd.cli.program import FAILED, begin, flag_of, is_user_error, run

__all__ = ["FAILED", "begin", "flag_of", "is_user_error", "run", "start"]
