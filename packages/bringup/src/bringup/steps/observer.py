"""What a person is told while steps run. The words are made by the observer, in `report`."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Receives events; must not fail."""

    def started(self, step: str) -> None:
        """A step begins."""

    def line(self, step: str, text: str) -> None:
        """A line of output of the program that does the step."""

    def finished(self, step: str, seconds: float, reused: bool) -> None:
        """A step is done; `reused`: it was done before with the same inputs."""


class Silent:
    """Tells nobody."""

    def started(self, step: str) -> None:
        pass

    def line(self, step: str, text: str) -> None:
        pass

    def finished(self, step: str, seconds: float, reused: bool) -> None:
        pass
