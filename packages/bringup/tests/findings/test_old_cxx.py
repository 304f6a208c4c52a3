"""Sources that no torch of today compiles: found where they are compiled, and mended by the command that is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bringup.facts.machine import MachineFacts
from bringup.findings.model import Finding, NamedGpu
from bringup.report.doctor import sentence

from .examining import A100, RTX_5090, examine
from .test_rules import write

SETUP = "from torch.utils.cpp_extension import CUDAExtension\nCUDAExtension('x', ['x.cu'])\n"


def told(machine: MachineFacts, root: Path, gpu: NamedGpu, files: dict[str, str]) -> list[Finding]:
    findings = examine(machine, None, gpu, project=write(root / "p", {"setup.py": SETUP} | files))
    return [row for row in findings if row.id == "source-for-old-torch"]


@pytest.mark.parametrize(
    ("text", "gpu", "lines"),
    [
        ('\nAT_DISPATCH_FLOATING_TYPES(value.type(), "f", [&] {});\n', RTX_5090, [2]),
        ('AT_DISPATCH_FLOATING_TYPES_AND_HALF(\n    inputs[0].type(), "f", [&] {});\n', RTX_5090, [1]),
        ('AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "f", [&] {});\n', RTX_5090, []),
        ('AT_DISPATCH_ALL_TYPES(x.type().scalarType(), "f", [&] {});\n', RTX_5090, []),
        # torch 2.0 serves it, which still converts.
        ('AT_DISPATCH_FLOATING_TYPES(value.type(), "f", [&] {});\n', A100, []),
        ("AT_CHECK(x.is_cuda());\n", RTX_5090, [1]),
        ("AT_CHECK(x.is_cuda());\n", A100, [1]),
        ("// AT_CHECK(x.is_cuda());\n/* AT_CHECK(y) */\n", RTX_5090, []),
        ("#define AT_CHECK TORCH_CHECK\nAT_CHECK(x.is_cuda());\n", RTX_5090, []),
        ("#include <THC/THC.h>\n", RTX_5090, [1]),
        ("#include <THC/THCAtomics.cuh>\n", RTX_5090, []),  # stayed
        ("#if TORCH_VERSION_MINOR < 11\n#include <THC/THC.h>\n#endif\n", RTX_5090, []),
        ("int type();\n", RTX_5090, []),
    ],
)
def test_a_source(text: str, gpu: NamedGpu, lines: list[int], tmp_path: Path, machine: MachineFacts) -> None:
    found = told(machine, tmp_path, gpu, {"csrc/x.cu": text})
    assert [(row.severity, row.subject) for row in found] == [("warning", f"csrc/x.cu:{n}") for n in lines]


def test_only_what_is_compiled(tmp_path: Path, machine: MachineFacts) -> None:
    assert not told(machine, tmp_path, RTX_5090, {"setup.py": "", "x.cpp": "AT_CHECK(true);\n"})


def test_a_header_of_the_project_brings_it_back(tmp_path: Path, machine: MachineFacts) -> None:
    files = {"a.cpp": '#include "utils.h"\nAT_CHECK(true);\n', "utils.h": "#define AT_CHECK TORCH_CHECK\n"}
    assert not told(machine, tmp_path, RTX_5090, files)


def test_the_command_mends_it(tmp_path: Path, machine: MachineFacts) -> None:
    text = 'AT_CHECK(a);\nAT_DISPATCH_FLOATING_TYPES(v.type(), "f", [&] { g(v.type()); });\n'
    found = told(machine, tmp_path, RTX_5090, {"a b/x.cu": text, "y.cpp": "AT_CHECK(b);\n"})
    assert [row.parameters["count"] for row in found] == ["1", "2"]
    assert all(part in sentence(found[1]) for part in ("y.cpp:1", "AT_CHECK", "TORCH_CHECK"))
    for row in found:
        subprocess.run(row.fix, shell=True, check=True)
    assert (tmp_path / "p" / "a b" / "x.cu").read_text() == (
        'TORCH_CHECK(a);\nAT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "f", [&] { g(v.type()); });\n'
    )
    assert not told(machine, tmp_path / "again", RTX_5090, {"y.cpp": "TORCH_CHECK(b);\n"})
