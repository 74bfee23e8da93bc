"""The one error that a user can cause. Everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """A mistake in what the user gave: a recipe, a data set, an option, a file.

    The message is one line that says what was found, what was expected and what to do. The command line prints it
    and leaves with exit code 2.
    """
