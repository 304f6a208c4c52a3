"""portable-kernels' stand-ins for compiled extensions, put into an environment by its own command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bringup.errors import BringupError
from bringup.steps.processes import run_logged
from bringup.steps.target import Target


def install_shims(target: Target, shims: Sequence[str], log: Path, on_line: Callable[[str], None]) -> None:
    """Install shims (`torch_scatter`, …) under the originals' names and versions.

    Raises:
        BringupError: `shims-failed`.
    """
    names = ",".join(shims)
    command = [str(target.python), "-m", "portable_kernels", "install", "--shim", names]
    outcome = run_logged(command, log, environment=target.variables(), on_line=on_line)
    if outcome.code:
        tail = " ".join(line.strip() for line in outcome.tail.strip().splitlines()[-4:])
        raise BringupError("shims-failed", shims=names, text=tail or "–")
