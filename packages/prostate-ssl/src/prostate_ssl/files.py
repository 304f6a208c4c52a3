"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


def absolute(path: str | Path) -> Path:
    """Where a path of the command line leads: what has this very name, else with `~` for the home folder."""
    found = Path(path)
    if not os.path.lexists(found):
        with contextlib.suppress(RuntimeError):  # nobody of that name has a home folder
            found = found.expanduser()
    return found.absolute()


def make_writable(folder: Path) -> None:
    """Make a folder and prove that files can be written there, before hours of work rely on it.

    Raises:
        OSError: they cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write beside `path`, flush to the disk, then rename over it; on any failure the old file stays.

    Args:
        path: final name; its folder is made where it is missing.
        content: the bytes, or a function that writes them to an open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def let_go_of_output() -> None:
    """Write what is left, or drop it: Python would try again at its end, and exit with 120 where it fails."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def disk_is_full(error: Exception) -> bool:
    """Whether a failed write says so: torch's zip writer and safetensors have words of their own for it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = ("file write failed", "unexpected pos", "No space left on device", "Disk quota", "File too large")
    return any(words in str(error) for words in said)


def why_unreadable(error: Exception) -> str:
    """What torch says of a file that is none of its own, in a line; not its advice to run the file's code."""
    text = str(error)
    if "weights_only" in text:
        return "it is no file of tensors, or wants to run code of its own"
    return text.splitlines()[0] if text else type(error).__name__


def write_figure(path: Path, figure: Figure, dpi: int) -> None:
    """Write a matplotlib figure atomically; the name's suffix tells the format, without one it is PNG."""
    form = path.suffix.lstrip(".").lower() or "png"
    write_atomically(path, lambda file: figure.savefig(file, format=form, dpi=dpi))


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb"):
            mode = beside.stat().st_mode  # as the umask has it; safetensors would keep others from reading
        save_file(tensors, beside, metadata=metadata)
        beside.chmod(mode)
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities, which JSON lacks, must have been removed before."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
