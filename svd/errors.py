"""What a program tells in one line, without a traceback: the user can mend it."""


class UserError(Exception):
    """Base of all errors of bad input and surroundings; the message says in one line what is wrong and what to do."""
