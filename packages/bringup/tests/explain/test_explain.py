"""Every error text that people met is told apart; big logs and strange bytes are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from bringup.findings.error_texts import error_texts, explain
from bringup.report.explain import cause, fix

EXAMPLES = [(row.id, text) for row in error_texts() for text in row.examples]


def test_there_are_many() -> None:
    assert len(error_texts()) >= 40
    assert len({row.id for row in error_texts()}) == len(error_texts())


@pytest.mark.parametrize(("id", "text"), EXAMPLES)
def test_each_example_is_recognised(id: str, text: str) -> None:
    found = explain(f"some output before\n{text}\nand after\n".encode())
    assert id in [row.id for row in found]
    row = next(row for row in found if row.id == id)
    assert row.line >= 2
    assert cause(row)
    assert fix(row)


@pytest.mark.parametrize(("id", "text"), EXAMPLES)
def test_each_example_means_one_thing(id: str, text: str) -> None:
    """A text leads to at most one other explanation (an import error and the module that it names)."""
    assert len(explain(text.encode())) <= 2


@pytest.mark.parametrize(
    "text",
    [
        "Epoch 3: loss 0.12\nAll good.\n",
        "",
        "kernel image loaded",
        "symbols are defined\nno error at all",
        "Successfully installed torch-2.11.0",
        "\x00\xff\xfe binary",
    ],
)
def test_the_unknown_is_unknown(text: str) -> None:
    assert explain(text.encode("utf-8", errors="replace")) == []


def test_what_gave_it_away() -> None:
    log = b"ok\nok\nImportError: a.so: undefined symbol: _ZN3c10Ev\r\nmore\n"
    (row,) = explain(log)
    assert (row.line, row.parameters["symbol"]) == (3, "_ZN3c10Ev")
    assert row.excerpt == "ImportError: a.so: undefined symbol: _ZN3c10Ev"


def test_the_telling_row_hides_the_general_one() -> None:
    ids = [row.id for row in explain(b"ModuleNotFoundError: No module named 'xformers'\n")]
    assert ids == ["no-xformers"]
    both = b"No module named 'xformers'\nNo module named 'banana'\n"
    assert sorted(row.id for row in explain(both)) == ["missing-module", "no-xformers"]


def test_an_import_that_fails_is_no_build() -> None:
    """`import clip` and many others reach for pkg_resources when they run: nothing is to be built."""
    (row,) = explain(b"  File \"clip.py\", line 6\nModuleNotFoundError: No module named 'pkg_resources'\n")
    assert row.id == "pkg-resources-gone"
    assert "--no-build-isolation" not in fix(row) and "setuptools<81" in fix(row)


@pytest.mark.parametrize("name", ["float", "int", "bool", "object", "complex", "str", "long"])
def test_an_alias_that_numpy_removed_is_no_abi(name: str) -> None:
    (row,) = explain(f"AttributeError: module 'numpy' has no attribute '{name}'.\n".encode())
    assert (row.id, row.parameters["name"]) == ("numpy-alias-gone", name)
    assert "numpy<1.24" in fix(row) and "numpy<2" not in fix(row)


def test_names_that_numpy_2_removed() -> None:
    text = b"AttributeError: `np.float_` was removed in the NumPy 2.0 release. Use `np.float64` instead.\n"
    (row,) = explain(text)
    assert (row.id, row.parameters["name"]) == ("numpy-name-gone", "np.float_")
    assert "numpy<2" in fix(row)


def test_a_module_that_torchvision_removed() -> None:
    (row,) = explain(b"ModuleNotFoundError: No module named 'torchvision.transforms.functional_tensor'\n")
    assert row.id == "functional-tensor-gone"
    assert "torchvision.transforms.functional " in fix(row)


@pytest.mark.parametrize(
    ("line", "id", "toolkits"),
    [
        ("nvcc fatal   : Unsupported gpu architecture 'compute_30'", "nvcc-too-old-for-chip", "10.2"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_35'", "nvcc-too-old-for-chip", "10.2–11.8"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_37'", "nvcc-too-old-for-chip", "10.2–11.8"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_70'", "nvcc-too-old-for-chip", "10.2–12.9"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_120'", "nvcc-too-old-for-chip", "12.8–"),
        (
            "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
            "nvcc-too-old-for-chip",
            "12.9–",
        ),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_20'", "arch-of-no-toolkit", "10.2–"),
        ("nvcc fatal   : Unsupported gpu architecture 'native'", "arch-of-no-toolkit", "10.2–"),
    ],
)
def test_toolkits_of_an_architecture(line: str, id: str, toolkits: str) -> None:
    """compute_30 went with CUDA 11.0, 3.5 and 3.7 with 12.0, all before 7.5 with 13.0 (release notes)."""
    (row,) = explain(line.encode())
    assert row.id == id
    told = row.parameters["toolkits"]
    assert told == toolkits or (toolkits.endswith("–") and told.startswith(toolkits))
    assert told in cause(row) and "?" not in cause(row) + fix(row)


@pytest.mark.parametrize(
    ("line", "id", "not_said"),
    [
        (
            "nvrtc: error: invalid value for --gpu-architecture (-arch)",
            "nvrtc-without-chip",
            "TORCH_CUDA_ARCH_LIST",
        ),
        (
            "fatal error C1189: #error:  -- unsupported Microsoft Visual Studio version!",
            "visual-studio-unsupported",
            "gcc",
        ),
        ("PTXAS error: Internal Triton PTX codegen error", "ptxas-too-old", "TORCH_CUDA_ARCH_LIST"),
    ],
)
def test_compilers_that_are_not_nvcc_or_gcc(line: str, id: str, not_said: str) -> None:
    (row,) = explain(line.encode())
    assert row.id == id
    assert not_said not in cause(row) + fix(row) and "?" not in cause(row)


def test_nothing_is_a_placeholder_in_the_examples() -> None:
    """Each example names what its words name."""
    for id, text in EXAMPLES:
        for row in explain(text.encode()):
            if row.id == id and id != "missing-library":  # «[WinError 127]» names no library.
                assert " ?" not in cause(row) + fix(row), text


def test_a_deprecation_warning_is_no_error() -> None:
    text = "mlp.cpp:69:53: warning: ‘at::DeprecatedTypeProperties& at::Tensor::type() const’ is deprecated\n"
    assert explain(text.encode()) == []


# What train.py printed on an H200 with diff-gaussian-rasterization 59f5f77e built for sm_80 alone.
RASTERIZER_WITHOUT_IMAGE = """\
    num_rendered, color, radii, geomBuffer, binningBuffer, imgBuffer = _C.rasterize_gaussians(*args)
                                                                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate more than 1EB memory.
Training progress:   0%|          | 0/300 [00:00<?, ?it/s]
"""


def test_an_allocation_that_nobody_asked_for() -> None:
    (row,) = explain(RASTERIZER_WITHOUT_IMAGE.encode())
    assert (row.id, row.line) == ("absurd-allocation", 3)
    assert "more than 1EB" in cause(row) and "no kernel image" in cause(row)
    assert fix(row).startswith("bringup doctor")
    honest = b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 120.00 GiB. GPU 0 has\n"
    assert [row.id for row in explain(honest)] == ["cuda-out-of-memory"]
    both = [row.id for row in explain(honest + RASTERIZER_WITHOUT_IMAGE.encode())]
    assert both == ["cuda-out-of-memory", "absurd-allocation"]


def test_in_order_of_appearance() -> None:
    log = b"c++: fatal error: Killed signal terminated program cc1plus\nERROR: Failed building wheel for x\n"
    assert [row.id for row in explain(log)] == ["compiler-killed", "wheel-build-failed"]


def test_powershell_writes_utf16() -> None:
    log = "RuntimeError: CUDA error: no kernel image is available".encode("utf-16")
    assert [row.id for row in explain(log)] == ["no-kernel-image"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"[ 42%] Building CUDA object src/CMakeFiles/some.dir/kernel_123456.cu.o warning: unused\n", []),
        (b"CUDA error not found failed No such file undefined could not is not available memory\n", []),
        (b"RuntimeError: CUDA error: no kernel image is available\n", ["no-kernel-image"]),
        (
            b"a.so: undefined symbol: _ZN3c10Ev and more of the same line without an end ",
            ["undefined-symbol"],
        ),
    ],
    ids=["build log", "nearly known", "all known", "one line"],
)
def test_a_log_of_100_mb(line: bytes, expected: list[str]) -> None:
    log = line * (100_000_000 // len(line)) + b"\nnvcc: command not found\n"
    began = time.perf_counter()
    assert [row.id for row in explain(log)] == [*expected, "nvcc-not-found"]
    assert time.perf_counter() - began < 10  # well under a second on an idle core; CI machines are shared


def test_a_text_that_two_chunks_share() -> None:
    log = b"first\nImportError: x.so: undefined symbol: _ZN3c10Ev\nlast nvcc: command not found"
    whole = explain(log)
    assert [(row.id, row.line) for row in whole] == [("undefined-symbol", 2), ("nvcc-not-found", 3)]
    for size in (1, 7, 40):
        assert explain(log[at : at + size] for at in range(0, len(log), size)) == whole


def test_what_is_shown_of_a_long_line() -> None:
    (row,) = explain(b"x" * 5000 + b" no kernel image is available " + b"y" * 5000)
    assert "no kernel image is available" in row.excerpt
    assert len(row.excerpt) <= 300


def test_colours_and_progress_bars() -> None:
    (row,) = explain(b"10%\r20%\r\x1b[31mERROR: No matching distribution found for torch==9\x1b[0m\r\n")
    assert row.excerpt == "ERROR: No matching distribution found for torch==9"
    assert row.parameters["requirement"] == "torch==9"


def test_lines_are_counted_up_to_a_thousand() -> None:
    (row,) = explain(b"nvcc: command not found\n" * 5000)
    assert row.count == 1000
    (row,) = explain(b"nvcc: command not found\n" * 7 + b"ok\n")
    assert row.count == 7


def run(arguments: list[str], text: bytes, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "explain", *arguments]
    return subprocess.run(command, input=text, capture_output=True, env=os.environ | {"LC_ALL": "C.UTF-8"})


def test_a_log_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"\x1b]8;;http://example.org\x1b\\ {EXAMPLES[0][1]} \x1b]0;title\x07")
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "explain"]
    ran = subprocess.run([*command, str(tmp_path / "log")], capture_output=True, text=True)
    assert EXAMPLES[0][0] in ran.stdout
    assert "\x1b" not in ran.stdout


def test_through_the_program(tmp_path: Path) -> None:
    known = run(["--json"], b"RuntimeError: CUDA error: no kernel image is available\n", tmp_path)
    assert known.returncode == 0
    schema = json.loads((resources.files("bringup.report") / "schemas" / "explain.json").read_text("utf-8"))
    jsonschema.validate(json.loads(known.stdout), schema)
    jsonschema.validate({"schema": "bringup/explain/1", "explanations": []}, schema)
    assert json.loads(known.stdout)["explanations"][0]["id"] == "no-kernel-image"
    unknown = run([], b"hello\n", tmp_path)
    assert unknown.returncode == 1
    (tmp_path / "log").write_bytes(b"nvcc: command not found\n")
    chinese = run([str(tmp_path / "log"), "--lang", "zh"], b"", tmp_path)
    assert "编译器" in chinese.stdout.decode()
    assert run(["/nowhere/log"], b"", tmp_path).returncode == 2
