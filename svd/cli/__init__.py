"""The command `svd`, and what all programs share: signals, streams, error lines, exit codes, options."""

from svd.cli.commands import start
from svd.cli.program import begin, flag_of, is_user_error, run
