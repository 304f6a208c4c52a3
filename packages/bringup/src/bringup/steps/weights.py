"""Weights and other files that a workload reads, kept once for all environments.

Hub files lie as `huggingface_hub` keeps them (`models--OWNER--NAME/{refs,snapshots}`): a library finds
them under the names that it knows, without network: a stage sets `HF_HOME={weights}/huggingface`.
Source of that layout: huggingface_hub's guide «Understand caching».
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from filelock import FileLock

from bringup import state
from bringup.errors import BringupError
from bringup.plan.steps import FetchWeights
from bringup.steps.downloads import download, sha256_of
from bringup.steps.sources import Supplies

OnLine = Callable[[str], None]


def weights_folder() -> Path:
    """Where weights are kept: `{weights}` in a stage's command."""
    return state.cache() / "weights"


def hub_address() -> str:
    """The hub, or the mirror that `HF_ENDPOINT` names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def given_file(folder: Path, step: FetchWeights, name: str) -> Path | None:
    """A file in a folder that the user or a pack brings: by repository and name, or by name alone."""
    repository = step.repository or ""
    for place in (
        repository,
        repository.replace("/", "--"),
        repository.rpartition("/")[2],
        step.destination,
        "",
    ):
        file = folder / place / name if place else folder / name
        if file.is_file():
            return file
    return None


def _place(given: Path, target: Path, sha256: str | None) -> None:
    """A given file in the store, without a second copy where the file system allows it.

    `sha256`: what it must be; None for what the user names by hand, which is taken as it is.
    """
    if sha256 and (found := sha256_of(given)) != sha256:
        raise BringupError("wrong-hash", subject=given.name, text=f"sha256 {found}, {sha256} expected")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(given.resolve(), partial)
    except OSError:
        shutil.copyfile(given, partial)
    partial.replace(target)


def _find(step: FetchWeights, name: str, supplies: Supplies) -> Path | None:
    own = given_file(Path(step.local), step, name) if step.local else None
    if own or not supplies.pack:
        return own
    return given_file(supplies.pack / "weights", step, name)


def _is_own(file: Path, step: FetchWeights) -> bool:
    """Whether the user named its folder (`--weights`): weights that were trained further are wanted, too."""
    return step.local is not None and file.is_relative_to(step.local)


def are_other_weights(repository: str, revision: str | None) -> bool:
    """Whether what a library finds of a hub repository is not the revision that the recipe has pinned."""
    refs = _root(repository) / "refs"
    if revision is None or not (refs / "main").is_file():
        return False
    pinned = refs / revision
    return not pinned.is_file() or pinned.read_text("ascii") != (refs / "main").read_text("ascii")


def _root(repository: str) -> Path:
    return weights_folder() / "huggingface" / "hub" / f"models--{repository.replace('/', '--')}"


def weights_not_here(step: FetchWeights, supplies: Supplies) -> list[str]:
    """Names of a row's files that neither the store nor a given folder nor the pack has."""
    if step.repository:
        if _known_commit(_root(step.repository), step.revision or "main", step):
            return []
        return [name for name in step.files if _find(step, name, supplies) is None]
    assert step.url is not None
    name = PurePosixPath(step.url.partition("?")[0]).name
    stored = (weights_folder() / step.destination / name).is_file()
    return [] if stored or _find(step, name, supplies) else [name]


def fetch_weights(step: FetchWeights, supplies: Supplies, on_line: OnLine) -> list[Path]:
    """Bring the files of one row. Returns where they lie.

    Raises:
        BringupError: `weights-missing` (offline: names each file and where to put it), `download-failed`,
            `wrong-hash`.
    """
    folder = weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        return _hub(step, supplies, on_line) if step.repository else _file(step, supplies, on_line)


def _file(step: FetchWeights, supplies: Supplies, on_line: OnLine) -> list[Path]:
    assert step.url is not None
    name = PurePosixPath(step.url.partition("?")[0]).name
    target = weights_folder() / step.destination / name
    if target.is_file() and (step.sha256 is None or sha256_of(target) == step.sha256):
        return [target]
    given = _find(step, name, supplies)
    if given:
        _place(given, target, None if _is_own(given, step) else step.sha256)
    elif supplies.offline:
        raise _missing(step, [name])
    else:
        download([step.url, *step.mirrors], target, size=step.size, sha256=step.sha256, on_line=on_line)
    return [target]


def _missing(step: FetchWeights, names: list[str]) -> BringupError:
    origin = f"{hub_address()}/{step.repository}" if step.repository else step.url
    return BringupError("weights-missing", name=step.id, files=", ".join(names), origin=origin)


def _hub(step: FetchWeights, supplies: Supplies, on_line: OnLine) -> list[Path]:
    assert step.repository is not None
    root = _root(step.repository)
    revision = step.revision or "main"
    refs = [revision, "main"]  # Libraries ask for "main", whatever the recipe has pinned.
    given = {name: file for name in step.files if (file := _find(step, name, supplies))}
    if given.keys() == step.files.keys():
        commit, pinned = _place_given(step, given, root, revision)
        refs = refs if pinned else ["main"]
    elif known := _known_commit(root, revision, step):
        commit = known
    elif supplies.offline or step.local:
        raise _missing(step, sorted(step.files.keys() - given.keys()))
    else:
        commit = _download_hub(step, root, revision, on_line)
    for name in dict.fromkeys(refs):
        state.write_atomically(root / "refs" / name, commit)
    return [root / "snapshots" / commit / name for name in step.files]


def _place_given(step: FetchWeights, given: dict[str, Path], root: Path, revision: str) -> tuple[str, bool]:
    """The snapshot of given files, and whether they are what the recipe has pinned."""
    facts = [(name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in sorted(given.items())]
    commit = hashlib.sha1(repr(facts).encode()).hexdigest()  # a snapshot's name, no proof of content
    folder, pinned = root / "snapshots" / commit, root / "refs" / revision
    if all((folder / name).is_file() for name in step.files):
        return commit, pinned.is_file() and pinned.read_text("ascii") == commit
    is_pinned = True
    for name, file in given.items():
        own, expected = _is_own(file, step), step.files[name] or None
        is_pinned = is_pinned and (not own or expected is None or sha256_of(file) == expected)
        _place(file, folder / name, None if own else expected)
    return commit, is_pinned


def _known_commit(root: Path, revision: str, step: FetchWeights) -> str | None:
    try:
        commit = (root / "refs" / revision).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return commit if all((root / "snapshots" / commit / name).is_file() for name in step.files) else None


def _download_hub(step: FetchWeights, root: Path, revision: str, on_line: OnLine) -> str:
    """Download all files into a folder of their own, then name it by the commit that the hub reports."""
    staging = root / "snapshots" / f".{revision}.partial"
    commit = ""
    for name, sha256 in step.files.items():
        path = f"/{step.repository}/resolve/{revision}/{name}"
        addresses = [f"{base}{path}" for base in dict.fromkeys([hub_address(), *step.mirrors])]
        headers = download(addresses, staging / name, sha256=sha256 or None, on_line=on_line)
        commit = (headers.get("X-Repo-Commit") if headers else None) or commit
    commit = commit or hashlib.sha1(f"{step.repository}@{revision}".encode()).hexdigest()
    final = root / "snapshots" / commit
    shutil.rmtree(final, ignore_errors=True)
    staging.replace(final)
    return commit
