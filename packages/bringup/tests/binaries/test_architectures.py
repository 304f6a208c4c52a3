"""Spellings of chips, architectures and lists of them."""

from __future__ import annotations

import pytest

from bringup.binaries.architectures import Architecture, ComputeCapability, parse_arch_list


@pytest.mark.parametrize("text", ["12.0", "120", "sm_120", "SM_120", "compute_120", "sm120", " 12.0 "])
def test_every_spelling_of_a_capability(text: str) -> None:
    chip = ComputeCapability.parse(text)
    assert (chip.major, chip.minor, chip.number, chip.sm, str(chip)) == (12, 0, 120, "sm_120", "12.0")


@pytest.mark.parametrize("text", ["", "sm_", "5090", "12.0.1", "-7.5", "sm_90x"])
def test_what_is_no_capability(text: str) -> None:
    with pytest.raises(ValueError):
        ComputeCapability.parse(text)


def test_chips_are_ordered_as_numbers() -> None:
    names = ["sm_120", "sm_75", "sm_100", "sm_90"]
    assert sorted(map(ComputeCapability.parse, names))[0].sm == "sm_75"
    codes = ["sm_120", "sm_90a", "sm_90", "sm_100f"]
    assert [a.sm for a in sorted(map(Architecture.parse, codes))] == ["sm_90", "sm_90a", "sm_100f", "sm_120"]


@pytest.mark.parametrize(
    ("text", "torch", "cmake"),
    [
        ("7.5;8.6+PTX", "7.5;8.6+PTX", "75-real;86"),
        ("12.0+PTX", "12.0+PTX", "120"),
        ("7.5, 8.0 8.6", "7.5;8.0;8.6", "75-real;80-real;86-real"),
        ("Hopper", "9.0+PTX", "90"),
        ("hopper+ptx", "9.0+PTX", "90"),
        ("Ampere;Turing", "7.5+PTX;8.0;8.6+PTX", "75;80-real;86"),
        ("Kepler+Tesla", "3.7", "37-real"),
        ("Blackwell", "10.0;10.3;12.0;12.1+PTX", "100-real;103-real;120-real;121"),
        ("sm_120", "12.0", "120-real"),
        ("120-real", "12.0", "120-real"),
        ("120", "12.0+PTX", "120"),
        ("9.0a;12.0f", "9.0a;12.0f", "90a-real;120f-real"),
        ("90a-virtual", "9.0a+PTX", "90a-virtual"),
        ("compute_120f", "12.0f+PTX", "120f-virtual"),
        ("-gencode arch=compute_90a,code=sm_90a", "9.0a", "90a-real"),
        ("-gencode=arch=compute_80,code=[sm_80,compute_80]", "8.0+PTX", "80"),
        ("8.6;8.6;8.6+PTX", "8.6+PTX", "86"),
    ],
)
def test_every_spelling_of_a_list(text: str, torch: str, cmake: str) -> None:
    found = parse_arch_list(text)
    assert (found.torch, found.cmake) == (torch, cmake)


@pytest.mark.parametrize("text", ["", ";;", "RTX 5090", "12.0x", "native", "+PTX", "12.0+"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError):
        parse_arch_list(text)
