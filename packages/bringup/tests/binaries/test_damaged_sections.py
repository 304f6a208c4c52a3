"""Sections of fat binaries that were zeroed or overwritten, in files that are whole otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bringup.binaries import ar, elf
from bringup.binaries.examine import examine
from bringup.binaries.model import BinaryReport
from bringup.binaries.source import BytesSource

from .test_hostile import _small_pe


def _zeros(size: int) -> bytes:
    return bytes(size)


def _garbage(size: int) -> bytes:
    return (b"\x9e\x37\x79\xb9" * (size // 4 + 1))[:size]


def _overwritten(data: bytes, names: tuple[str, ...], fill: Callable[[int], bytes], part: int = 1) -> bytes:
    """An ELF file of which some sections, or the first `1 / part` of them, hold something else."""
    facts, changed = elf.read_elf(BytesSource(data)), bytearray(data)
    for section in (row for name in names for row in facts.named(name)):
        size = section.size // part
        changed[section.offset : section.offset + size] = fill(size)
    return bytes(changed)


def _examine(data: bytes, name: str = "x.so") -> BinaryReport:
    return examine(BytesSource(data), name)


@pytest.mark.parametrize("fill", [_zeros, _garbage])
@pytest.mark.parametrize(
    "names", [(".nv_fatbin",), ("__nv_relfatbin",), (".nv_fatbin", "__nv_relfatbin")], ids="+".join
)
def test_each_destroyed_section_is_named(
    fixtures: Path, names: tuple[str, ...], fill: Callable[[int], bytes]
) -> None:
    whole = (fixtures / "relocatable.so").read_bytes()
    report = _examine(_overwritten(whole, names, fill))
    for name in (".nv_fatbin", "__nv_relfatbin"):
        assert (f"{name} (" in (report.damage or "")) is (name in names)
    assert report.has_device_code is (len(names) == 1)  # what is left is still told


def test_a_destroyed_section_alone(fixtures: Path) -> None:
    report = _examine(_overwritten((fixtures / "many.so").read_bytes(), (".nv_fatbin",), _zeros))
    assert (report.containers, ".nv_fatbin" in (report.damage or "")) == ((), True)


def test_a_destroyed_beginning(fixtures: Path) -> None:
    """The second unit's container is found; the first one's loss is not kept silent."""
    report = _examine(_overwritten((fixtures / "two-units.so").read_bytes(), (".nv_fatbin",), _zeros, part=4))
    assert len(report.containers) == 1
    assert ".nv_fatbin" in (report.damage or "")


def test_a_destroyed_member_of_a_static_library(fixtures: Path) -> None:
    data = (fixtures / "static.a").read_bytes()
    (member,) = (row for row in ar.members(BytesSource(data)) if row.read(0, 4) == elf.MAGIC)
    inner = member.read(0, member.size)
    destroyed = _overwritten(inner, (".nv_fatbin", "__nv_relfatbin"), _garbage)
    assert "fatbin (" in (_examine(data.replace(inner, destroyed), "x.a").damage or "")


@pytest.mark.parametrize("fill", [_zeros, _garbage])
def test_a_destroyed_section_of_a_windows_library(fixtures: Path, fill: Callable[[int], bytes]) -> None:
    data, containers = _small_pe(), (fixtures / "both.fatbin").read_bytes()
    report = _examine(data.replace(containers, fill(len(containers))), "x.pyd")
    assert (report.containers, ".nv_fatb" in (report.damage or "")) == ((), True)


def test_pointers_of_windows_are_no_damage() -> None:
    """`.nvFatBinSegment`, of whose name eight letters fit, points to the fat binaries and holds none."""
    data = _small_pe().replace(b".rdata\0\0", b".nvFatBi")
    assert _examine(data, "x.pyd").damage is None


@pytest.mark.parametrize("name", ["unlinked.o", "relocatable.so", "static.a", "two-units.so"])
def test_whole_files_have_no_damage(fixtures: Path, name: str) -> None:
    assert _examine((fixtures / name).read_bytes(), name).damage is None
