"""The one error that a person sees: an identifier and parameters. Its words stand in `report/messages`."""

from __future__ import annotations


class BringupError(Exception):
    """A refusal or failure that is explained in one paragraph, never with a traceback.

    Args:
        id: key below `[errors]` in the message catalogue, for example `"no-python"`.
        exit_code: 1 the work failed or was refused, 2 wrong usage, 3 the tool could not finish looking.
        **parameters: what the paragraph names; plain strings and numbers.
    """

    def __init__(self, id: str, /, exit_code: int = 1, **parameters: object) -> None:
        super().__init__(id, parameters)
        self.id = id
        self.exit_code = exit_code
        self.parameters = parameters

    def __str__(self) -> str:
        named = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.id}: {named}" if named else self.id
