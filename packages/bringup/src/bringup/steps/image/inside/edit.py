"""In the builder stage: source edits by bringup's own step; changed files go below `/changes`."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from pathlib import Path

from bringup.plan.steps import PatchSource
from bringup.steps.patches import gcc_version, patch_source


def main() -> None:
    """`edit.py --source DIR [--of EXTENSION]`: those edits of `image.json` that are of this source."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--of", default="")
    parser.add_argument("--context", type=Path, default=Path("/bringup"))
    parser.add_argument("--changes", type=Path, default=Path("/changes"))
    arguments = parser.parse_args()
    described = json.loads((arguments.context / "image.json").read_text(encoding="utf-8"))
    versions = {
        "gcc": gcc_version(),
        "torch": described["torch"],
        "cuda": described["cuda"],
        "python": platform.python_version(),
    }
    for row in described["edits"]:
        if row["of"] != arguments.of:
            continue
        changed = [
            arguments.source / name for name in patch_source(PatchSource(**row), arguments.source, versions)
        ]
        print(f"bringup: {row['id']}: {len(changed)} files")
        for file in changed:
            # What the build fetched lies below `changes` already; what is compiled stays in this stage.
            if arguments.changes in file.parents or arguments.of:
                continue
            target = arguments.changes / str(file.resolve()).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file), str(target))


if __name__ == "__main__":
    main()
