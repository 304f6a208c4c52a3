"""The shims of this package: a folder each below `portable_kernels/dropins`, described by its `shim.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from packaging.utils import canonicalize_name

from portable_kernels.errors import ShimError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCAL_LABEL = "portable"


@dataclass(frozen=True)
class Shim:
    """A distribution to stand in for a compiled one. Fields as in `shim.toml`.

    `probe` is Python that fails where the original does not work; without one, it is imported.
    """

    folder: Path
    distribution: str
    version: str
    import_names: tuple[str, ...]
    summary: str
    original_licence: str
    original_url: str
    probe: str

    @property
    def shim_version(self) -> str:
        """The original's version with our label: pins like `==2.1.2` hold, and a reader sees what it is."""
        return f"{self.version}+{LOCAL_LABEL}"


def dropins() -> Path:
    """Return the folder of all shims."""
    return Path(str(files("portable_kernels").joinpath("dropins")))


def _load(folder: Path) -> Shim:
    data = tomllib.loads((folder / "shim.toml").read_text(encoding="utf-8"))
    names = tuple(data["import_names"])
    return Shim(
        folder=folder,
        distribution=data["distribution"],
        version=data["version"],
        import_names=names,
        summary=data["summary"],
        original_licence=data["original_licence"],
        original_url=data["original_url"],
        probe=data.get("probe", "".join(f"import {name}\n" for name in names)),
    )


def all_shims() -> list[Shim]:
    """Return every shim, by name."""
    return [_load(path.parent) for path in sorted(dropins().glob("*/shim.toml"))]


def named_shims(names: Sequence[str]) -> list[Shim]:
    """Return the shims that are named (`torch-scatter` is `torch_scatter`).

    ShimError for a name that is none.
    """
    known = {canonicalize_name(shim.distribution): shim for shim in all_shims()}
    wanted = {canonicalize_name(name.strip()): name.strip() for name in names if name.strip()}
    unknown = [wanted[key] for key in wanted if key not in known]
    if unknown or not wanted:
        there = ", ".join(shim.distribution for shim in known.values())
        raise ShimError(f"There is no shim for {', '.join(unknown) or 'nothing'}. There are: {there}.")
    return [known[key] for key in wanted]
