"""What runs where: the table of the specification, row by row, and containers judged together."""

from __future__ import annotations

import pytest

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.binaries.compatibility import (
    Images,
    Ptx,
    judge,
    machine_code_runs,
    newest_ptx,
    ptx_runs,
)

CHIPS = ("7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")


@pytest.mark.parametrize(
    ("code", "chips"),
    [
        ("sm_70", "7.0 7.5"),
        ("sm_75", "7.5"),
        ("sm_80", "8.0 8.6 8.7 8.9"),
        ("sm_86", "8.6 8.7 8.9"),
        ("sm_89", "8.9"),
        ("sm_90", "9.0"),
        ("sm_90a", "9.0"),
        ("sm_100", "10.0 10.3"),
        ("sm_100a", "10.0"),
        ("sm_100f", "10.0 10.3"),
        ("sm_103", "10.3"),
        ("sm_103f", "10.3"),
        ("sm_101", "11.0"),
        ("sm_101a", "11.0"),
        ("sm_110", "11.0"),
        ("sm_120", "12.0 12.1"),
        ("sm_120a", "12.0"),
        ("sm_120f", "12.0 12.1"),
        ("sm_121", "12.1"),
        ("sm_121a", "12.1"),
    ],
)
def test_machine_code(code: str, chips: str) -> None:
    built = Architecture.parse(code)
    assert [
        chip for chip in CHIPS if machine_code_runs(built, ComputeCapability.parse(chip))
    ] == chips.split()


@pytest.mark.parametrize(
    ("ptx", "chips"),
    [
        ("compute_52", " ".join(CHIPS)),
        ("compute_90", "9.0 10.0 10.3 11.0 12.0 12.1"),
        ("compute_90a", "9.0"),
        ("compute_100f", "10.0 10.3"),
        ("compute_120", "12.0 12.1"),
        ("compute_120a", "12.0"),
        ("compute_120f", "12.0 12.1"),
    ],
)
def test_ptx(ptx: str, chips: str) -> None:
    built = Architecture.parse(ptx)
    assert [chip for chip in CHIPS if ptx_runs(built, ComputeCapability.parse(chip))] == chips.split()


@pytest.mark.parametrize(
    ("code", "runs"), [("sm_100f", True), ("sm_103f", True), ("sm_107f", True), ("sm_110f", False)]
)
def test_the_family_of_10_7(code: str, runs: bool) -> None:
    """As ptxas 13.5 accepts `.target sm_100f` for sm_107 (tried with the wheel)."""
    assert machine_code_runs(Architecture.parse(code), ComputeCapability(10, 7)) is runs


def test_thor_is_asked_for_by_its_old_number() -> None:
    assert machine_code_runs(Architecture.parse("sm_110"), ComputeCapability(10, 1))


def _images(code: str = "", ptx: str = "", isa: tuple[int, int] | None = None) -> Images:
    return Images(
        tuple(map(Architecture.parse, code.split())),
        tuple(Ptx(Architecture.parse(name), isa) for name in ptx.split()),
    )


@pytest.mark.parametrize(
    ("containers", "chip", "status", "counts"),
    [
        ([_images("sm_80 sm_90")], "9.0", "machine-code", (1, 0, 0)),
        ([_images("sm_80"), _images("sm_80 sm_90")], "9.0", "partial", (1, 0, 1)),
        ([_images("sm_80"), _images("sm_80")], "9.0", "no", (0, 0, 2)),
        ([_images("sm_90"), _images("sm_80", "compute_80")], "9.0", "ptx", (1, 1, 0)),
        ([_images("", "compute_80"), _images("sm_80")], "9.0", "partial", (0, 1, 1)),
        ([_images("sm_80"), _images("sm_90a")], "8.0", "machine-code", (1, 0, 0)),
        ([_images("sm_90a")], "9.0", "machine-code", (1, 0, 0)),
        ([_images("sm_90a")], "12.0", "no", (0, 0, 1)),
        ([_images(), _images("sm_90a")], "9.0", "machine-code", (1, 0, 0)),
        ([_images()], "9.0", "no", (0, 0, 1)),
        ([], "9.0", "no", (0, 0, 0)),
    ],
)
def test_containers_together(
    containers: list[Images], chip: str, status: str, counts: tuple[int, int, int]
) -> None:
    verdict = judge(containers, ComputeCapability.parse(chip))
    assert (verdict.status, (verdict.by_machine_code, verdict.by_ptx, verdict.without)) == (status, counts)


@pytest.mark.parametrize(
    ("cuda", "status"), [((12, 8), "no"), ((13, 0), "ptx"), ((13, 9), "ptx"), ((8, 0), "no"), (None, "ptx")]
)
def test_ptx_newer_than_the_driver_does_not_count(cuda: tuple[int, int] | None, status: str) -> None:
    containers = [_images("", "compute_90", isa=(9, 0))]
    assert judge(containers, ComputeCapability(12, 0), cuda).status == status


def test_a_driver_between_two_known_ones_has_the_older_ones_ptx() -> None:
    assert newest_ptx((12, 8)) == (8, 7)
    assert newest_ptx((11, 9)) == (7, 8)
    assert newest_ptx((99, 0)) is None
