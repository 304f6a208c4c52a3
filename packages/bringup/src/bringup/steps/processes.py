"""Running other programs: output into a log while it is read, whole process groups ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL = 200


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        code: exit status; negative: the signal that ended it.
        tail: its last lines (standard output and error as they came).
    """

    code: int
    tail: str


def _end(process: subprocess.Popen[str]) -> None:
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_logged(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a program; every line goes to `log` (appended) and to `on_line`.

    The child is ended with its whole group when this process is interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: list[str] = []
    with log.open("a", encoding="utf-8", errors="replace") as stream:
        stream.write("$ " + " ".join(command) + "\n")
        stream.flush()
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=dict(environment) if environment is not None else None,
            cwd=directory,
            start_new_session=os.name == "posix",
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                stream.write(line)
                stream.flush()
                tail = [*tail[-_TAIL:], line]
                if on_line:
                    on_line(line.rstrip("\n"))
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    return Outcome(code, "".join(tail))
