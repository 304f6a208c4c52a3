"""A recipe's old checkpoints in one folder: converted without running them, rebuilt in the environment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bringup.checkpoints import convert_all, rules
from bringup.checkpoints.rules import BuildRequest
from bringup.errors import BringupError
from bringup.plan.steps import ConvertCheckpoints
from bringup.steps.rebuild import output_path, rebuild
from bringup.steps.target import Target


def convert_models(
    step: ConvertCheckpoints, target: Target, output: Path, python_path: Path, on_line: Callable[[str], None]
) -> list[Path]:
    """Convert and rebuild every checkpoint that the row means. Returns the rebuilt files, below `output`.

    Args:
        python_path: the folder that the row's own `python_path` stands below: the workload's source.

    Raises:
        BringupError: `models-none` when no file fits; what converting and rebuilding raise.
    """
    folder = Path(step.folder)
    files = sorted(folder.glob(step.files)) or sorted(folder.rglob(Path(step.files).name))
    if not files:
        raise BringupError("models-none", path=folder, files=step.files)
    paths = tuple(str(python_path / path) for path in step.python_path)
    request = BuildRequest(step.class_path, step.keywords, step.rename, step.layout, paths)
    with tempfile.TemporaryDirectory(prefix="bringup-") as staging:
        results = convert_all(files, Path(staging))
        failed = next((result for result in results if isinstance(result, BringupError)), None)
        if failed:
            raise failed
        made = []
        for result in results:
            assert not isinstance(result, BringupError)
            on_line(f"Rebuilding {result.description.stem}")
            document = rules.read_description(result.description)
            place = output_path(output, step.destination, step.layout, document)
            made.append(rebuild(result.description, request, target, place).output)
    return made
