"""A CPU build of torch counts only where torchvision is offered for it: wheels in a folder are the index."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import Catalog, load
from bringup.errors import BringupError
from bringup.facts.interpreters import find_interpreters
from bringup.plan.companions import BuiltFor, choose_companions, newest_for, torch_companions
from bringup.plan.resolve import Resolver
from bringup.plan.torch_choice import TorchQuestion, choose_torch
from bringup.recipes.schema import ExtensionRow


def wheel(folder: Path, name: str, version: str, torch: str = "") -> None:
    """`torch`: what its METADATA require of torch."""
    info = f"{name}-{version}.dist-info"
    requires = f"Requires-Dist: torch{torch}\n" if torch else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
        )
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
    assert (choice.choice.why.id == "torch-cuda-for-companion") == bool(rejected)


@pytest.fixture(scope="module")
def folder_of_wheels(tmp_path_factory: pytest.TempPathFactory) -> Resolver:
    """xFormers as its releases declare themselves, an inference engine that pins torch, and a library that
    takes any."""
    tmp_path = tmp_path_factory.mktemp("wheels")
    for torch in ("2.15.0", "2.13.0+cpu", "2.10.0", "2.9.1"):
        wheel(tmp_path, "torch", torch)
    xformers = {"0.0.35": ">=2.10", "0.0.34": ">=2.10", "0.0.33": "==2.9.1", "0.0.32": "==2.8.0"}
    engine = {"3.0": "==2.14.0", "2.0": "==2.10.0", "1.0": "==2.9.1"}
    for name, rows in {"xformers": xformers, "engine": engine, "metrics": {"1.9": ">=2.0"}}.items():
        for version, torch in rows.items():
            wheel(tmp_path, name, version, torch)
    resolver = Resolver(next(row for row in find_interpreters() if row.minor >= (3, 10)), (tmp_path,), True)
    resolver.prepare()
    return resolver


def test_what_belongs_to_one_torch_is_told_from_its_metadata(folder_of_wheels: Resolver) -> None:
    asked = ["xformers", "engine>=1", "metrics"]
    assert [row.name for row in torch_companions(asked, folder_of_wheels, load())] == ["xformers", "engine"]


@pytest.mark.parametrize(
    ("requirement", "torch", "cuda", "newest"),
    [
        ("xformers", "2.15.0", "13.2", None),  # METADATA say torch>=2.10, its libraries 2.10 and CUDA 12
        ("xformers", "2.10.0", "12.8", "0.0.35"),
        ("xformers<0.0.35", "2.10.0", "12.8", "0.0.34"),
        ("xformers", "2.10.0+cu130", "13.0", None),
        ("xformers", "2.9.1", "12.8", "0.0.33"),
        ("xformers", "2.9.1+cu130", "13.0", None),  # built against the default build: CUDA 12
        ("xformers", "2.8.0+cu126", "12.6", "0.0.32"),
        ("engine", "2.10.0", "12.8", "2.0"),
        ("engine", "2.13.0+cpu", None, None),
    ],
)
def test_the_newest_that_was_built_for_this_torch(
    requirement: str, torch: str, cuda: str | None, newest: str | None, folder_of_wheels: Resolver
) -> None:
    found, others = newest_for(Requirement(requirement), Version(torch), cuda, folder_of_wheels, load())
    assert (str(found) if found else None) == newest
    assert not any(built.serves(Version(torch), cuda) for _, built in others)


def test_torch_is_chosen_for_what_stands_beside_it(folder_of_wheels: Resolver) -> None:
    beside = (Requirement("xformers"),)
    blackwell = (ComputeCapability(12, 0),)
    question = TorchQuestion(blackwell, None, "linux-x86_64", SpecifierSet(">=2.6"), False, beside=beside)
    choice = choose_torch(question, folder_of_wheels, load())
    assert str(choice.version) == "2.10.0"
    assert choice.choice.rejected[0].why.id == "torch-without-companion"
    held = replace(question, allowed=SpecifierSet("==2.15.0"))
    assert str(choose_torch(held, folder_of_wheels, load()).version) == "2.15.0"


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Catalog, Path]:
    """A catalog whose wheels of torch-cluster stand on pages in a folder; the folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    known = load()
    address = f"{tmp_path.as_uri()}/torch-{{torch}}+{{cuda}}.html"
    rows = (
        row.model_copy(update={"wheels": address}) if row.name == "torch-cluster" else row
        for row in known.extensions
    )
    return replace(known, extensions=tuple(rows)), tmp_path


def _publish(folder: Path, torch: str, cuda: str) -> None:
    """torch-cluster's page for this torch, as PyG writes it."""
    label = f"pt{torch.replace('.', '')}{cuda}"
    wheel(folder, "torch_cluster", f"1.6.3+{label}")
    file = f"torch_cluster-1.6.3%2B{label}-py3-none-any.whl"
    (folder / f"torch-{torch}+{cuda}.html").write_text(f'<a href="{file}">{file}</a>')


@pytest.mark.parametrize(
    ("published", "chosen"),
    [
        ([("2.10.0", "cu128"), ("2.9.0", "cu128")], "2.10.0"),
        ([("2.9.0", "cu128")], "2.9.1"),
        ([("2.10.0", "cu126")], "2.15.0"),  # of another CUDA: no torch has it
        ([], "2.15.0"),
    ],
)
def test_torch_is_chosen_for_wheels_of_a_page(
    published: list[tuple[str, str]], chosen: str, pages: tuple[Catalog, Path], folder_of_wheels: Resolver
) -> None:
    catalog, folder = pages
    for torch, cuda in published:
        _publish(folder, torch, cuda)
    resolver = Resolver(folder_of_wheels.interpreter, (folder_of_wheels._find_links[0],))
    cluster = ExtensionRow(distribution="torch-cluster", ways=("wheel",))
    question = TorchQuestion(
        (ComputeCapability(12, 0),), None, "linux-x86_64", SpecifierSet(">=2.6"), False, extensions=(cluster,)
    )
    assert choose_torch(question, resolver, catalog).version == Version(chosen)


def test_cuda_code_of_a_companion_moves_no_cpu_torch(folder_of_wheels: Resolver) -> None:
    question = TorchQuestion((), None, "linux-x86_64", SpecifierSet(">=2.6"), False)
    for beside, chosen in (("xformers", "2.13.0+cpu"), ("engine", "2.10.0")):
        asked = replace(question, beside=(Requirement(beside),))
        assert str(choose_torch(asked, folder_of_wheels, load()).version) == chosen


def test_a_companion_that_nobody_built_is_said(folder_of_wheels: Resolver) -> None:
    asked = ["metrics", "xformers", "engine"]
    texts, choices = choose_companions(asked, Version("2.10.0"), "12.8", folder_of_wheels, load())
    assert texts == ["metrics", "xformers==0.0.35", "engine==2.0"]
    assert [(row.subject, row.why.id) for row in choices] == [("engine", "companion-for-torch")]
    texts, choices = choose_companions(asked[:2], Version("2.15.0"), "13.2", folder_of_wheels, load())
    assert texts == asked[:2]
    assert [(row.subject, row.why.id) for row in choices] == [("xformers", "companion-without-code")]
    with pytest.raises(BringupError, match=r"engine 3\.0 depends on torch==2\.14\.0"):
        choose_companions(asked, Version("2.15.0"), "13.2", folder_of_wheels, load())


def test_every_row_of_the_catalog_can_be_compared() -> None:
    for row in load().companions:
        built = BuiltFor(SpecifierSet(row.torch), row.cuda)
        SpecifierSet(row.versions)
        assert not built.serves(Version("1.13.0"), "11.7")
