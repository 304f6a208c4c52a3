"""Running pip for an answer, and no longer than is sensible once it has begun to try versions in turn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_TRYING = re.compile(r"looking at multiple versions of (\S+)")


class StillTrying(Exception):
    """pip was ended: it went on trying versions. `names`: of what, the latest first."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


def run_pip(command: Sequence[str], limit: float) -> subprocess.CompletedProcess[str]:
    """pip's exit status and output.

    Args:
        limit: seconds after which a pip that tries versions in turn is ended, with what it started; a pip
            that waits for a slow index is not.

    Raises:
        StillTrying: the limit was reached.
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
        try:
            while True:
                try:
                    process.wait(limit)
                    break
                except subprocess.TimeoutExpired:
                    if tried := _TRYING.findall(_text(out) + _text(err)):
                        raise StillTrying(list(dict.fromkeys(reversed(tried)))) from None
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
