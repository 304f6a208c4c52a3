"""Names as people and drivers write them."""

from __future__ import annotations

import pytest

from bringup.catalog import load
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
    ],
)
def test_known(text: str, capability: str) -> None:
    assert str(load().find_gpu(text)[1]) == capability


@pytest.mark.parametrize("text", ["RTX 9999", "", "banana", "Radeon RX 7900"])
def test_unknown(text: str) -> None:
    with pytest.raises(BringupError, match="unknown-gpu"):
        load().find_gpu(text)
