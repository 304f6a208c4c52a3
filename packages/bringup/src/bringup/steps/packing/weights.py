"""Weights of a plan, laid where `given_file` finds them in a pack: `weights/OWNER/NAME/FILE`."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from bringup.errors import BringupError
from bringup.plan.steps import FetchWeights
from bringup.steps.downloads import download, sha256_of
from bringup.steps.sources import OnLine
from bringup.steps.weights import given_file, hub_address


def _copy(given: Path, target: Path, sha256: str | None) -> None:
    if sha256 and (found := sha256_of(given)) != sha256:
        raise BringupError("wrong-hash", subject=given.name, text=f"sha256 {found}, {sha256} expected")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.copying.partial")
    shutil.copyfile(given, partial)
    partial.replace(target)


def pack_weights(step: FetchWeights, folder: Path, on_line: OnLine) -> list[Path]:
    """Bring the files of one row; what is there and whole is kept, what was broken off is gone on with.

    Raises:
        BringupError: `download-failed`, `wrong-hash`.
    """
    if step.repository:
        revision = step.revision or "main"
        bases = [f"{base}/{step.repository}" for base in dict.fromkeys([hub_address(), *step.mirrors])]
        rows = [
            (
                f"{step.repository}/{name}",
                [f"{base}/resolve/{revision}/{name}" for base in bases],
                sha or None,
            )
            for name, sha in step.files.items()
        ]
        size = None
    else:
        assert step.url is not None
        name = PurePosixPath(step.url.partition("?")[0]).name
        place = f"{step.destination}/{name}" if step.destination else name
        rows = [(place, [step.url, *step.mirrors], step.sha256)]
        size = step.size
    return [_bring(step, folder / place, addresses, sha, size, on_line) for place, addresses, sha in rows]


def _bring(
    step: FetchWeights,
    target: Path,
    addresses: list[str],
    sha256: str | None,
    size: int | None,
    on_line: OnLine,
) -> Path:
    given = given_file(Path(step.local), step, target.name) if step.local else None
    if given and not target.is_file():
        _copy(given, target, sha256)
    else:
        download(addresses, target, size=size, sha256=sha256, on_line=on_line)
    return target
