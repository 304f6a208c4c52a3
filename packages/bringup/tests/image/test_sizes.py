"""What the base holds already is not counted: pip's own answer for a real recipe, from a folder of wheels."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import load as load_catalog
from bringup.facts.interpreters import Interpreter
from bringup.recipes import load
from bringup.steps.image.sizes import Layer, layers
from bringup.steps.image.spec import ImageSpec, ImageWishes, make_spec

HELD = ("nnunet", "simpleitk", "scipy", "numpy", "matplotlib")


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    rows = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *map("Requires-Dist: {}".format, requires),
    ]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(rows) + "\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, interpreter: Interpreter) -> Path:
    """All that DeepPrep's recipe asks for, but not what its image has."""
    wheel(tmp_path, "torch", spec_of(tmp_path).torch.version)  # type: ignore[union-attr]
    wheel(tmp_path, "torch-geometric", "2.7.0", "numpy")
    wheel(tmp_path, "nibabel", "5.4.2", "numpy>=1.25")
    wheel(tmp_path, "safetensors", "0.8.0")
    wheel(tmp_path, "antspyx", "0.6.3", "numpy<=2.2.4", "matplotlib", "pandas")
    wheel(tmp_path, "pandas", "2.3.3", "numpy>=1.22.4")
    own = [Requirement(text) for package in spec_of(tmp_path).own for text in package.requirements]
    here = {"extra": ""} | interpreter.markers
    for row in own:
        if row.name not in ("torch", *HELD) and (row.marker is None or row.marker.evaluate(here)):
            wheel(tmp_path, row.name, "99")
    return tmp_path


def spec_of(folder: Path, **wishes: object) -> ImageSpec:
    given = {"gpus": (ComputeCapability(12, 0),), "offline": True, "find_links": (folder,)} | wishes
    return make_spec(load("deepprep"), load_catalog(), ImageWishes(**given))  # type: ignore[arg-type]


def installed(spec: ImageSpec, interpreter: Interpreter) -> list[Layer]:
    return [row for row in layers(spec, [interpreter]) if row.id in ("torch", "packages")]


def count(rows: list[Layer]) -> int:
    assert {row.origin for row in rows} == {"index"}
    return sum(row.count for row in rows)


def test_what_the_base_has_is_neither_fetched_nor_counted(wheels: Path, interpreter: Interpreter) -> None:
    """pandas, that antspyx needs, is; NumPy and nnU-Net, of which there is no wheel, are not asked for."""
    assert count(installed(spec_of(wheels), interpreter)) == len(list(wheels.glob("*.whl")))


def test_another_base_is_not_taken_to_have_them(wheels: Path, interpreter: Interpreter) -> None:
    """nnU-Net is asked for then, and no wheel of it is there."""
    base = {"base": "nvcr.io/nvidia/pytorch:25.01-py3", "python_version": "3.12"}
    rows = installed(spec_of(wheels, **base), interpreter)
    assert [row.origin for row in rows] == ["typical", "unknown"]


def test_what_does_not_fit_is_counted(wheels: Path, interpreter: Interpreter) -> None:
    """A package that needs a newer NumPy than the base's brings it along."""
    wheel(wheels, "safetensors", "0.9.0", "numpy>=2")
    wheel(wheels, "numpy", "2.2.0")
    (wheels / "safetensors-0.8.0-py3-none-any.whl").unlink()
    assert count(installed(spec_of(wheels), interpreter)) == len(list(wheels.glob("*.whl")))
