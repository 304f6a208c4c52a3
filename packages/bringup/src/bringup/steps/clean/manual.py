"""What the manual way of moving DeepPrep to a new GPU leaves: known names in a folder, known images.

A name that others use too (`converted_models` is also where `bringup convert` writes) counts only beside a
sure mark of the manual way, or where its contents are of its kind alone.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from bringup.errors import BringupError
from bringup.steps.clean.items import Item, Kind, item_of
from bringup.steps.image.engines import ENGINES, Engine, find_engine, image_store, variables

_DOCKERFILES = (*(f"Dockerfile.step{number}" for number in range(1, 5)), "Dockerfile.final")
_RUNFILE = re.compile(r"cuda_\d+\.\d+\.\d+_\d+\.\d+(?:\.\d+)?_linux(?:_sbsa)?\.run")
_PYTORCH3D = ("pytorch3d-main", "pytorch3d-main.zip")
_MODELS = ("converted_models", "new_models")
_MODEL = re.compile(r"[lr]h_(?:No)?Rigid_904_fsaverage[3-6]\w*\.(?:model|pt|pth)")
INTERMEDIATE = tuple(f"deepprep:rtx5090-step{number}" for number in range(1, 5))
FINAL = "deepprep:25.1.0-rtx5090"
_LARGEST_SCRIPT = 1 << 20


def _sure_marks(folder: Path) -> list[tuple[Path, Kind]]:
    """Names that nothing but the manual way uses."""
    marks: list[tuple[Path, Kind]] = [(folder / name, "dockerfile") for name in _DOCKERFILES]
    marks += [(folder / name, "folder") for name in _PYTORCH3D]
    marks += [(entry, "runfile") for entry in sorted(folder.iterdir()) if _RUNFILE.fullmatch(entry.name)]
    return [(path, kind) for path, kind in marks if path.exists() and not path.is_symlink()]


def _holds_models_alone(folder: Path) -> bool:
    """Whether every file below is one of the ten models or their state dicts."""
    files = [entry for entry in folder.rglob("*") if not entry.is_dir() or entry.is_symlink()]
    return bool(files) and all(_MODEL.fullmatch(file.name) and not file.is_symlink() for file in files)


def _is_its_script(file: Path) -> bool:
    """Whether a script unpickles or rebuilds SUGAR's models: known by what it does, whatever its name."""
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > _LARGEST_SCRIPT:
            return False
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    about = re.search(r"GatUNet|gatunet_model|Rigid_904|/opt/model/SUGAR", text)
    return bool(about and re.search(r"torch\.(load|save)\(", text) and "state_dict" in text)


def manual_items(folder: Path) -> list[Item]:
    """The leavings in one folder (not below it)."""
    if not folder.is_dir():
        return []
    marks = _sure_marks(folder)
    found = list(marks)
    for name in _MODELS:
        place = folder / name
        if place.is_dir() and not place.is_symlink() and (marks or _holds_models_alone(place)):
            found.append((place, "folder"))
    found += [(file, "script") for file in sorted(folder.glob("*.py")) if _is_its_script(file)]
    items = (item_of(path.absolute(), kind, "manual") for path, kind in found)
    return [item for item in items if item]


def _engine(name: str) -> Engine | None:
    """The engine if it is here and answers."""
    try:
        return find_engine(name)
    except BringupError:
        return None


def _inspect(engine: Engine, reference: str) -> int | None:
    """The image's size in bytes; None if the engine does not have it."""
    kind = ["inspect", "--type", "image"] if engine.name == "buildah" else ["image", "inspect"]
    command = [engine.program, *engine.options, *kind, reference]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables(engine))
        document = json.loads(answer.stdout) if answer.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    row = document[0] if isinstance(document, list) and document else document
    return int(row.get("Size") or 0) if row else None


def manual_images() -> list[Item]:
    """The four intermediate images in every engine that answers, once where engines share their images.

    Layers that they share count with each.
    """
    stores: dict[str, Engine] = {}
    for engine in filter(None, map(_engine, ENGINES)):
        stores.setdefault(image_store(engine), engine)
    found = []
    for engine in stores.values():
        for reference in INTERMEDIATE:
            size = _inspect(engine, reference)
            if size is not None:
                found.append(Item("image", "manual", size, image=reference, engine=engine.name))
    return found


def remove_image(item: Item) -> str | None:
    """Take one image away by its name, without force. Returns why not, None when it is gone."""
    assert item.image in INTERMEDIATE
    assert item.engine is not None
    engine = find_engine(item.engine)
    command = [engine.program, *engine.options, "rmi", item.image]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=600, env=variables(engine))
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if answer.returncode == 0 else (answer.stderr.strip().splitlines() or ["–"])[-1]
