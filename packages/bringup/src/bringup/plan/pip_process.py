"""Running pip for an answer, and no longer than is sensible once it has begun to try versions in turn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_ASKED = re.compile(r"^ *(?:Collecting|Downloading|Obtaining) +(\S+)", re.MULTILINE)
_TRYING = re.compile(r"looking at multiple versions of (\S+)")


_LONGEST_WAITING = 30.0


def longest_waiting() -> float:
    """Minutes that one planning may wait for an index: BRINGUP_PLANNING_MINUTES, else half an hour."""
    try:
        return float(os.environ["BRINGUP_PLANNING_MINUTES"])
    except (KeyError, ValueError):
        return _LONGEST_WAITING


def what_is_asked(arguments: Sequence[str]) -> list[str]:
    """The first of what a command of pip names, its options aside."""
    words = [word for word in arguments if not word.startswith("-")]
    return [word for word in words if word not in ("install", "index", "versions")][:3]


class StillTrying(Exception):
    """pip was ended: it went on trying versions. `names`: of what, the latest first."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


class StillWaiting(Exception):
    """pip was ended: it waited for an index all that time. `last`: what it asked for, "" where not said."""

    def __init__(self, last: str) -> None:
        super().__init__(last)
        self.last = last


def run_pip(command: Sequence[str], limit: float, patience: float) -> subprocess.CompletedProcess[str]:
    """pip's exit status and output.

    Args:
        limit: seconds after which a pip that tries versions in turn is ended, with what it started.
        patience: seconds after which a pip that waits for a slow index is.

    Raises:
        StillTrying: the limit was reached.
        StillWaiting: so was the patience.
    """
    # pip's messages are read: they must be English, and there when it is ended.
    environment = os.environ | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PIP_RETRIES": "2"}
    environment["PYTHONUNBUFFERED"] = "1"
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        # Files and not pipes: what pip started may hold a pipe open after its end.
        out, err = Path(folder) / "out", Path(folder) / "err"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                env=environment,
                start_new_session=True,
            )
        ends = time.monotonic() + patience
        try:
            while True:
                try:
                    process.wait(min(limit, max(0.1, ends - time.monotonic())))
                    break
                except subprocess.TimeoutExpired:
                    said = _text(out) + _text(err)
                    if tried := _TRYING.findall(said):
                        raise StillTrying(list(dict.fromkeys(reversed(tried)))) from None
                    if time.monotonic() >= ends:
                        raise StillWaiting((_ASKED.findall(said) or [""])[-1]) from None
        finally:
            if process.poll() is None:
                _end(process)
        return subprocess.CompletedProcess(list(command), process.returncode, _text(out), _text(err))


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
