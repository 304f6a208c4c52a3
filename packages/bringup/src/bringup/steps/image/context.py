"""The build context: the Dockerfile and the few files that it needs; nothing else is sent to the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from bringup import state
from bringup.errors import BringupError
from bringup.plan.folders import left_out
from bringup.plan.own_packages import find_own_package
from bringup.steps.image.dockerfile import needs_bringup, requirement_lines
from bringup.steps.image.spec import ImageSpec

_MARK = ".bringup-image"
_NOT_SENT = shutil.ignore_patterns(
    "__pycache__", "*.pyc", ".venv", "build", "dist", "tests", ".mypy_cache", ".ruff_cache", ".pytest_cache"
)
_INSIDE = ("assemble.py", "finish.py", "edit.py")
_SENT = ("requirements.txt", "image.json", "recipe.toml", *_INSIDE, "own", "source")


def dockerignore() -> str:
    """Everything is ignored but what a stage reads."""
    lines = ["*", *(f"!{name}" for name in _SENT), "**/__pycache__", "**/*.pyc", "**/.git"]
    return "\n".join(lines) + "\n"


def description(spec: ImageSpec) -> dict[str, Any]:
    """What the programs inside the build read (`image.json`); it stays in the image as a record."""
    edits = [
        {"id": row.id, "of": row.of, "files": row.files, "fault": row.fault, "absent": row.absent}
        | {"action": row.kind, "value": row.value, "when": row.when}
        for row in spec.patches
    ]
    return {
        "schema": "bringup/image-content/1",
        "recipe": spec.recipe.name,
        "profile": spec.profile,
        "base": spec.base,
        "gpus": [gpu.sm for gpu in spec.gpus],
        "torch": spec.torch.version if spec.torch else None,
        "cuda": spec.torch.cuda if spec.torch else None,
        "drop": list(spec.drop),
        "imports": list(spec.imports),
        "edits": edits,
    }


def _copy_own(spec: ImageSpec, folder: Path) -> None:
    packages = list(spec.own)
    if needs_bringup(spec):
        packages.append(find_own_package("bringup"))
    for package in packages:
        target = folder / "own" / package.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if package.path.is_dir():
            shutil.copytree(package.path, target, ignore=_NOT_SENT, symlinks=True)
        else:
            shutil.copyfile(package.path, target)


def _copy_source(source: Path, folder: Path) -> None:
    """The user's copy of the workload's code, without its history, its environments and this very folder."""
    own = folder.resolve()

    def ignored(place: str, names: list[str]) -> set[str]:
        return left_out(place, names) | {name for name in names if (Path(place) / name).resolve() == own}

    shutil.copytree(source, folder / "source", ignore=ignored, symlinks=True)


def prepare_folder(folder: Path) -> None:
    """Take an empty folder, or one that was written by this program before; what it wrote is replaced.

    Raises:
        BringupError: `image-folder-taken`.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BringupError("image-folder-taken", exit_code=2, path=folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).is_file():
        raise BringupError("image-folder-taken", exit_code=2, path=folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).write_text("Written by `bringup image`; may be deleted.\n", encoding="utf-8")
    for name in ("own", "source"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def write_context(spec: ImageSpec, folder: Path, text: str, scripts: Mapping[str, str]) -> Sequence[str]:
    """Write the context. Returns the names of its files.

    Args:
        text: the Dockerfile.
        scripts: file name → text, with the line endings that each shell wants.

    Raises:
        BringupError: `image-folder-taken`, `own-package-missing`.
    """
    prepare_folder(folder)
    files = {
        "Dockerfile": text,
        ".dockerignore": dockerignore(),
        "requirements.txt": "\n".join(requirement_lines(spec)) + "\n",
        "image.json": json.dumps(description(spec), indent=2, ensure_ascii=False) + "\n",
        "recipe.toml": tomli_w.dumps(spec.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)),
    }
    for name in _INSIDE:
        source = resources.files("bringup.steps.image.inside") / name
        files[name] = source.read_text(encoding="utf-8")
    for name, content in (files | dict(scripts)).items():
        state.write_atomically(folder / name, content)
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)
    _copy_own(spec, folder)
    if spec.local is not None:
        _copy_source(spec.local, folder)
    return sorted([*files, *scripts])
