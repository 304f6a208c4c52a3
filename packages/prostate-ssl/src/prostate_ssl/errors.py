"""The one error that a person sees: a paragraph that says what is wrong and what to do."""

from __future__ import annotations


class ProstateError(Exception):
    """A refusal or failure that the command line prints as it is, without a traceback.

    Args:
        message: one paragraph: what happened, to which file or key, and what to do next.
        exit_code: 1 the work failed or was refused, 2 wrong usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
