"""The one error that a person sees: a paragraph that says what is wrong and what to do next."""

from __future__ import annotations


class ProstateError(Exception):
    """A refusal or failure that is explained in one paragraph, never with a traceback.

    Args:
        message: the paragraph; it names the file or setting, the reason and the next step.
        exit_code: 1 the work failed or was refused, 2 wrong usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class UnreadableVolumeError(ProstateError):
    """A file or a case's folder that cannot be used; the message names it and the reason."""
