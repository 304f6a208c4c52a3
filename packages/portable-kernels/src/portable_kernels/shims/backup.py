"""Keep the files of a distribution that a shim replaces, inside its environment, and put them back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from portable_kernels.shims.environment import Installed

_LIST = "files.json"


def folder(prefix: Path, distribution: str) -> Path:
    """Return where an environment keeps what a shim replaced there."""
    return prefix / "share" / "portable-kernels" / "replaced" / distribution


def _kept_files(installed: Installed) -> list[Path]:
    return [path for path in installed.files if path.is_file() and "__pycache__" not in path.parts]


def keep(prefix: Path, distribution: str, installed: Installed) -> None:
    """Copy all files of a distribution. A copy that was cut short never counts as one."""
    final = folder(prefix, distribution)
    partial = final.with_name(final.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows = []
    for number, path in enumerate(_kept_files(installed)):
        shutil.copy2(path, partial / str(number))
        rows.append(str(path))
    text = json.dumps({"version": installed.version, "files": rows}, indent=1)
    (partial / _LIST).write_text(text, encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)


def kept_version(prefix: Path, distribution: str) -> str | None:
    """Return the version that is kept, None where none is."""
    try:
        text = (folder(prefix, distribution) / _LIST).read_text(encoding="utf-8")
    except OSError:
        return None
    version: str = json.loads(text)["version"]
    return version


def restore(prefix: Path, distribution: str) -> str | None:
    """Put the kept files back where they were and forget them → their version, None where none is kept."""
    version = kept_version(prefix, distribution)
    if version is None:
        return None
    kept = folder(prefix, distribution)
    rows = json.loads((kept / _LIST).read_text(encoding="utf-8"))["files"]
    for number, row in enumerate(rows):
        path = Path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(kept / str(number), path)
    forget(prefix, distribution)
    return version


def forget(prefix: Path, distribution: str) -> None:
    """Drop what is kept."""
    shutil.rmtree(folder(prefix, distribution), ignore_errors=True)
