"""Names as people and drivers write them."""

from __future__ import annotations

import pytest

from bringup.catalog import load
from bringup.cli.gpu_names import find_gpus
from bringup.errors import BringupError


@pytest.mark.parametrize(
    ("text", "capability"),
    [
        ("RTX 5090", "12.0"),
        ("5070 Ti", "12.0"),
        ("5070ti", "12.0"),
        ("rtx5090", "12.0"),
        ("RTX PRO 6000", "12.0"),
        ("RTX PRO 6000 Blackwell Workstation Edition", "12.0"),
        ("RTX 6000 Ada Generation", "8.9"),
        ("Quadro RTX 6000", "7.5"),
        ("Thor", "11.0"),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", "12.0"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0"),
        ("H200", "9.0"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("A100-SXM4-40GB", "8.0"),
        ("rtx 3080ti", "8.6"),
        ("L40S", "8.9"),
        ("Tesla T4", "7.5"),
        ("B200", "10.0"),
        ("GB10", "12.1"),
        ("sm_120", "12.0"),
        ("12.0", "12.0"),
        ("90", "9.0"),
        ("sm_101", "10.1"),  # Thor, as CUDA 12.8 called it
        ("sm_107", "10.7"),  # compiled for by a toolkit; no GPU of that name in the catalog
        ("680", "3.0"),  # a GTX 680, and no compute capability of 68.0
        ("M4", "5.2"),  # a Tesla, and nothing of Apple's
    ],
)
def test_known(text: str, capability: str) -> None:
    assert str(load().find_gpu(text)[1]) == capability


@pytest.mark.parametrize("text", ["RTX 9999", "", "banana", "sm_"])
def test_unknown(text: str) -> None:
    with pytest.raises(BringupError, match="unknown-gpu"):
        load().find_gpu(text)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("sm_45", "sm_37, sm_50"),
        ("4.5", "sm_37, sm_50"),
        ("sm_91", "sm_90, sm_100"),
        ("sm_10", "sm_30"),
        ("sm_999", "sm_121"),
        ("sm_150", "sm_121"),
        ("compute_1200", "sm_121"),
        ("99.99", "sm_121"),
    ],
)
def test_capabilities_that_no_chip_has(text: str, nearest: str) -> None:
    with pytest.raises(BringupError, match="unknown-capability") as caught:
        load().find_gpu(text)
    assert caught.value.parameters["nearest"] == nearest
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "sm"), [("sm_122", "sm_122"), ("13.0", "sm_130"), ("compute_140a", "sm_140")]
)
def test_chips_newer_than_the_catalog(text: str, sm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A new chip is judged, since bringup is for those, and it is said that nobody knows it yet."""
    ((name, capability),) = find_gpus([text])
    assert (name, capability.sm) == (sm, sm)
    assert sm in capsys.readouterr().err


def test_nothing_is_assumed_of_known_chips(capsys: pytest.CaptureFixture[str]) -> None:
    find_gpus(["RTX 5090", "sm_120", "sm_101"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "vendor"),
    [
        ("MI300X", "AMD"),
        ("AMD Instinct MI250", "AMD"),
        ("mi 210", "AMD"),
        ("Radeon RX 7900", "AMD"),
        ("RX 7900 XTX", "AMD"),
        ("rx6800xt", "AMD"),
        ("gfx942", "AMD"),
        ("Gaudi2", "Intel"),
        ("Gaudi 3", "Intel"),
        ("Arc A770", "Intel"),
        ("Intel Data Center GPU Max 1550", "Intel"),
        ("Apple M3", "Apple"),
        ("M3 Max", "Apple"),
    ],
)
def test_gpus_of_other_vendors(text: str, vendor: str) -> None:
    with pytest.raises(BringupError, match="gpu-of-another-vendor") as caught:
        load().find_gpu(text)
    assert caught.value.parameters["vendor"] == vendor
