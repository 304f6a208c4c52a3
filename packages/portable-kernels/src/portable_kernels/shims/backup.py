"""Keep the files of a distribution that a shim replaces, inside its environment, and put them back."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from portable_kernels.errors import ShimError
from portable_kernels.shims.environment import Installed

_LIST = "files.json"


def folder(prefix: Path, distribution: str) -> Path:
    """Return where an environment keeps what a shim replaced there."""
    return prefix / "share" / "portable-kernels" / "replaced" / distribution


def _kept_files(installed: Installed) -> list[Path]:
    """Return files and links, dangling ones too, but for what Python makes again."""
    there = (path for path in installed.files if path.is_symlink() or path.is_file())
    return [path for path in there if "__pycache__" not in path.parts]


def keep(prefix: Path, distribution: str, installed: Installed) -> None:
    """Copy all files of a distribution, links as links. A copy that was cut short never counts as one.

    ShimError, and nothing kept, where they cannot be copied, or nothing says which they are.
    """
    final = folder(prefix, distribution)
    partial = final.with_name(final.name + ".part")
    files = _kept_files(installed)
    if not files:
        raise ShimError(
            f"{distribution} {installed.version} in '{installed.place}' has no list of its files: it could "
            f"not be brought back, and stays. Uninstall it yourself (pip uninstall {distribution}), then try "
            "again."
        )
    lines: dict[str, list[str]] = {}
    for path, line in installed.lines:
        lines.setdefault(str(path), []).append(line)
    rows = {"version": installed.version, "files": [str(path) for path in files], "lines": lines}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for number, path in enumerate(files):
            shutil.copy2(path, partial / str(number), follow_symlinks=False)
        (partial / _LIST).write_text(json.dumps(rows, indent=1), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ShimError(
            f"{distribution} {installed.version} stays as it is: what the shim would replace could not be "
            f"kept in '{final}' ({error}). See to it that this folder can be written, then try again."
        ) from error


def _list(prefix: Path, distribution: str) -> dict[str, Any] | None:
    """Return what `keep` wrote, None where nothing is kept. ShimError where it cannot be read."""
    path = folder(prefix, distribution) / _LIST
    try:
        rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ShimError(f"What is kept of {distribution} cannot be read: '{path}' ({error}).") from error
    return rows


def kept_version(prefix: Path, distribution: str) -> str | None:
    """Return the version that is kept, None where none is. ShimError where it cannot be read."""
    rows = _list(prefix, distribution)
    return None if rows is None else rows["version"]


def _missing(folder: Path) -> list[Path]:
    """Return the folders that must be made for this one to be there, innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _write_with_lines(path: Path, lines: list[str], partial: Path) -> None:
    """Write to `partial` what a .pth file holds, and at its end those of the lines that it lacks."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    there = text.splitlines()
    whole = [*there, *(line for line in lines if line not in there)]
    partial.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8", errors="surrogateescape")
    if path.exists():
        shutil.copymode(path, partial)


def restore(prefix: Path, distribution: str) -> str | None:
    """Put the kept files back where they were and forget them → their version, None where none is kept.

    All are written beside their names before the first is renamed. ShimError when that fails: then all stay
    kept.
    """
    rows = _list(prefix, distribution)
    if rows is None:
        return None
    kept = folder(prefix, distribution)
    files = {Path(row): kept / str(number) for number, row in enumerate(rows["files"])}
    lines = {Path(file): lines for file, lines in rows.get("lines", {}).items()}
    partials = {path: path.with_name(f".{path.name}.part") for path in (*files, *lines)}
    made: list[Path] = []
    try:
        for path, partial in partials.items():
            made = [*_missing(path.parent), *made]
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            if path in files:
                shutil.copy2(files[path], partial, follow_symlinks=False)
            else:
                _write_with_lines(path, lines[path], partial)
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        for partial in partials.values():
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        for empty in made:
            with suppress(OSError):
                empty.rmdir()
        raise ShimError(
            f"{distribution} {rows['version']} could not be put back ({error}). All of it is kept in "
            f"'{kept}': when the cause is gone, run 'portable-kernels uninstall --shim {distribution}' again."
        ) from error
    forget(prefix, distribution)
    return str(rows["version"])


def forget(prefix: Path, distribution: str) -> None:
    """Drop what is kept."""
    shutil.rmtree(folder(prefix, distribution), ignore_errors=True)
