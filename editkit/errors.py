"""The one error that a user can cause. Everything else is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: a recipe, a data set, an option, a file.

    The message is one line that says what was found, what was expected and what to do. The command line prints it
    and leaves with exit code 2.
    """


def did_you_mean(found: str, known: Iterable[str], otherwise: str) -> str:
    """The end of such a message: the nearest of the names that are known, or what else helps."""
    near = difflib.get_close_matches(found, known, 1)
    return f'did you mean "{near[0]}"?' if near else otherwise
