"""A CPU build of torch counts only where torchvision is offered for it: wheels in a folder are the index."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from bringup.catalog import load
from bringup.facts.interpreters import find_interpreters
from bringup.plan.resolve import Resolver
from bringup.plan.torch_choice import TorchQuestion, choose_torch


def wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(
    ("offered", "companions", "chosen", "rejected"),
    [
        (("torchvision 0.28.0+cpu",), ("torchvision",), "2.13.0+cpu", []),
        (("torchvision 0.28.0",), ("torchvision",), "2.13.0", ["torch-without-companion"]),
        (("torchvision 0.28.0",), (), "2.13.0+cpu", []),
    ],
)
def test_torch_comes_with_its_companions(
    tmp_path: Path, offered: tuple[str, ...], companions: tuple[str, ...], chosen: str, rejected: list[str]
) -> None:
    for row in ("torch 2.13.0+cpu", "torch 2.13.0", *offered):
        name, version = row.split()
        wheel(tmp_path, name, version)
    interpreter = next(row for row in find_interpreters() if row.minor >= (3, 10))
    resolver = Resolver(interpreter, (tmp_path,), True)
    resolver.prepare()
    question = TorchQuestion(
        (),
        None,
        "linux-x86_64",
        SpecifierSet(">=2.6,<2.14"),
        False,
        companions=companions,
    )
    choice = choose_torch(question, resolver, load())
    assert str(choice.version) == chosen
    assert [row.why.id for row in choice.choice.rejected] == rejected
