"""Errors that the user can fix: a program prints them as one line, without a traceback."""


class UserError(Exception):
    """Base of all errors of bad input and environment.

    Args:
        message: one line that says what is wrong and what to do. It names settings as in Python, never a flag.
        setting: the setting to change, such as `amp_level` or `train.lora.rank`; a program adds its flag for it.
    """

    def __init__(self, message: str = "", setting: str = ""):
        super().__init__(message)
        self.setting = setting


class NumericalError(UserError, FloatingPointError):
    """A network has computed NaN or infinity."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used; the message is one line that says what to change."""


def check(condition: bool, message: str, error: type[UserError] = ConfigError) -> None:
    """Raise an error with this message unless the condition holds."""
    if not condition:
        raise error(message)
