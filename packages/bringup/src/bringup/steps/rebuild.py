"""Rebuilding converted checkpoints as models of today's libraries, in a target environment."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bringup.checkpoints import rules
from bringup.checkpoints.rules import BuildRequest
from bringup.errors import BringupError
from bringup.recipes.schema import CheckpointRow, Recipe
from bringup.steps.target import Target

# What torch says on a machine without a GPU, or in a build without CUDA.
_NO_GPU = re.compile(r"no NVIDIA driver|not compiled with CUDA|No CUDA GPUs are available|no NVIDIA GPU")


@dataclass(frozen=True)
class KeyProblem:
    """A key that does not fit: `kind` is "missing", "unexpected" or "reshaped"."""

    kind: str
    key: str
    shape: str
    nearest: str | None


@dataclass(frozen=True)
class Rebuilt:
    """A model that was built, saved and read back equal."""

    description: Path
    output: Path
    class_path: str
    layout: str
    tensors: int
    torch: str


class KeysDiffer(BringupError):
    """`rebuild-keys`, with the table of keys."""

    def __init__(self, problems: tuple[KeyProblem, ...], **parameters: Any) -> None:
        super().__init__("rebuild-keys", **parameters)
        self.problems = problems


def rebuild(
    description: Path, request: BuildRequest, target: Target, output: Path, timeout: float = 3600
) -> Rebuilt:
    """Build, load strictly, save as `output`, read back, compare bit by bit.

    Raises:
        KeysDiffer: names or shapes do not fit.
        BringupError: `rebuild-…`; then `output` is as it was.
    """
    document = rules.read_description(description)
    _check(request)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps(_plan(description, document, request, output)), encoding="utf-8")
        answer = target.probe("rebuild", {"plan": str(plan)}, timeout)
    names: dict[str, Any] = {"file": description.name, "environment": target.root}
    if answer.get("crash"):
        output.with_name(output.name + ".partial").unlink(missing_ok=True)
        last_words = str(answer["output"])[-1000:]
        raise BringupError("rebuild-crashed", reason=answer["crash"], output=last_words, **names)
    if not answer["ok"]:
        raise _refusal(answer, request, description, output, names)
    count, version = int(answer["tensors"]), str(answer["torch"])
    return Rebuilt(description, output, request.class_path, request.layout, count, version)


def _check(request: BuildRequest) -> None:
    module, _, name = request.class_path.partition(":")
    if not module or not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise BringupError("rebuild-class-path", exit_code=2, given=request.class_path)


def _plan(description: Path, document: dict[str, Any], request: BuildRequest, output: Path) -> dict[str, Any]:
    wanted = "model" if document["model"] is not None else None
    rows = {n: row for n, row in document["tensors"].items() if wanted in (None, row["part_of"])}
    names = rules.rename(rows, request.rename)
    folder = description.absolute().parent
    training = rules.known_values(document).get("training")
    return {
        "class_path": request.class_path,
        "keywords": {name: rules.fill(value, document) for name, value in request.keywords.items()},
        "python_path": [str(Path(path).absolute()) for path in request.python_path],
        "layout": request.layout,
        "output": str(output.absolute()),
        "training": training if isinstance(training, bool) else None,
        "files": {name: str(folder / name) for name in document["files"]},
        "stored": document["stored"],
        "tensors": {names[name]: row for name, row in rows.items()},
    }


def _refusal(
    answer: dict[str, Any], request: BuildRequest, description: Path, output: Path, names: dict[str, Any]
) -> BringupError:
    failure = answer.get("failure")
    if failure == "tensors":
        return BringupError("rebuild-tensors", file=description.name)
    if failure == "keys":
        return _keys_differ(answer, request, description)
    if failure == "differing":
        different = answer["differing"]
        shown: dict[str, Any] = {
            "file": description.name,
            "count": len(different),
            "output": output,
            "name": different[0],
        }
        return BringupError("rebuild-differs", **shown)
    text = failure or answer.get("error", "")
    if answer.get("gpu") is False and _NO_GPU.search(text):
        return BringupError("rebuild-needs-gpu", class_path=request.class_path, text=text, **names)
    return BringupError("rebuild-failed", step=answer["step"], text=text, **names)


def _keys_differ(answer: dict[str, Any], request: BuildRequest, description: Path) -> KeysDiffer:
    missing = [(name, shape) for name, shape in answer["missing"]]
    unexpected = [(name, shape) for name, shape in answer["unexpected"]]
    problems = [
        *(KeyProblem("missing", n, str(s), rules.nearest(n, s, unexpected)) for n, s in missing),
        *(KeyProblem("unexpected", n, str(s), rules.nearest(n, s, missing)) for n, s in unexpected),
        *(KeyProblem("reshaped", n, f"{s} → {wanted}", None) for n, s, wanted in answer["reshaped"]),
    ]
    counts = {name: len(answer[name]) for name in ("missing", "unexpected", "reshaped")}
    return KeysDiffer(tuple(problems), file=description.name, class_path=request.class_path, **counts)


def row_for(recipe: Recipe, document: dict[str, Any]) -> CheckpointRow:
    """The recipe's row for a converted checkpoint.

    Raises:
        BringupError: `rebuild-no-rules`, `rebuild-no-rule`.
    """
    if not recipe.checkpoints:
        raise BringupError("rebuild-no-rules", exit_code=2, recipe=recipe.name)
    for row in recipe.checkpoints:
        if rules.fits(row.files, document):
            return row
    patterns = ", ".join(row.files for row in recipe.checkpoints)
    file = document["source"]["file"]
    raise BringupError("rebuild-no-rule", exit_code=2, recipe=recipe.name, file=file, patterns=patterns)


def request_of(
    row: CheckpointRow, layout: str | None = None, python_path: tuple[str, ...] = ()
) -> BuildRequest:
    """What a recipe's row asks for; `layout` overrides the row's, `python_path` stands before it."""
    paths = (*python_path, *row.python_path)
    return BuildRequest(row.class_path, row.keywords, row.rename, layout or row.layout, paths)


def output_path(folder: Path, destination: str, layout: str, document: dict[str, Any]) -> Path:
    """Where a result goes below `folder`; `{path}` is the original's folder and name.

    The ending follows the layout: `.safetensors`, `.pt`, and the original's for whole modules.

    Raises:
        BringupError: `rebuild-template` for a destination outside of `folder`.
    """
    original = f"{{folder}}/{document['source']['file']}"
    place = Path(str(rules.fill(destination.replace("{path}", original), document)))
    if place.is_absolute() or ".." in place.parts:
        file = document["source"]["file"]
        raise BringupError("rebuild-template", template=destination, name="..", file=file, known="{path}")
    endings = {"safetensors": ".safetensors", "state-dict": ".pt"}
    return folder / (place.with_suffix(endings[layout]) if layout in endings else place)
