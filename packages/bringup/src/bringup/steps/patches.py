"""Source edits by meaning: applied where the fault is present, never twice, and said file by file."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from bringup.errors import BringupError
from bringup.plan.steps import PatchSource
from bringup.recipes.fields import CONDITION
from bringup.steps.rewrite import rewrite

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b.*$", re.MULTILINE)


def gcc_version() -> str | None:
    """The version of the C++ compiler on PATH."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    answer = subprocess.run([compiler, "-dumpfullversion", "-dumpversion"], capture_output=True, text=True)
    return answer.stdout.strip() or None


def holds(condition: str | None, versions: Mapping[str, str | None]) -> bool:
    """Whether all of `gcc>=13, torch<2.6` hold; what has no version does not.

    Raises:
        BringupError: `patch-condition` when the text is none.
    """
    for part in condition.split(",") if condition else ():
        match = CONDITION.fullmatch(part)
        if not match:
            raise BringupError("patch-condition", exit_code=2, given=part)
        version = versions.get(match[1])
        try:
            if version is None or not SpecifierSet(match[2].strip()).contains(version, prereleases=True):
                return False
        except InvalidSpecifier as error:
            raise BringupError("patch-condition", exit_code=2, given=part) from error
    return True


def patch_source(step: PatchSource, folder: Path, versions: Mapping[str, str | None]) -> list[str]:
    """Apply a patch below `folder`. Returns the files that were changed, none where there is no fault.

    Raises:
        BringupError: `patch-no-files` when the pattern names none, `patch-condition`, `patch-expression`.
    """
    if not holds(step.when, versions):
        return []
    if step.action == "rewrite-torch-load":
        return [str(file.path) for file in rewrite(folder).files if file.before != file.after]
    try:
        fault, absent = re.compile(step.fault, re.MULTILINE), re.compile(step.absent or r"(?!)", re.MULTILINE)
    except re.error as error:
        raise BringupError("patch-expression", exit_code=2, patch=step.id, text=error) from error
    root = folder.resolve()
    found = (file for file in sorted(folder.glob(step.files)) if file.is_file() and not file.is_symlink())
    files = [file for file in found if file.resolve().is_relative_to(root)]
    if not files:
        raise BringupError("patch-no-files", patch=step.id, files=step.files, path=folder)
    changed = []
    for file in files:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
        if not fault.search(text) or absent.search(text):
            continue
        edited = _edited(step, fault, text)
        if edited != text:
            partial = file.with_name(f".{file.name}.partial")
            partial.write_bytes(edited.encode("utf-8", "surrogateescape"))
            shutil.copymode(file, partial)
            partial.replace(file)
            changed.append(file.relative_to(folder).as_posix())
    return changed


def _edited(step: PatchSource, fault: re.Pattern[str], text: str) -> str:
    if step.action == "replace":
        return fault.sub(step.value, text)
    line = f"#include {step.value}"
    ending = "\r\n" if "\r\n" in text else "\n"
    first = _INCLUDE.search(text)
    at = first.start() if first else 0
    return f"{text[:at]}{line}{ending}{text[at:]}"
