"""What NVRTC is asked for, and what is said when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from portable_kernels.compiler import CodeFormat, KernelSource, compile_source, known_chips
from portable_kernels.compiler.nvrtc import chip_number, target_for
from portable_kernels.errors import KernelCompilationError


def test_a_known_chip_gets_machine_code_and_a_later_one_ptx() -> None:
    assert target_for("sm_90") == ("sm_90", CodeFormat.CUBIN)
    newest = known_chips()[-1]
    assert target_for("sm_999") == (f"compute_{newest}", CodeFormat.PTX)
    assert target_for("sm_90", force_ptx=True) == ("compute_90", CodeFormat.PTX)
    with pytest.raises(KernelCompilationError, match="oldest chip it knows"):
        target_for("sm_20")
    with pytest.raises(ValueError, match="names no chip"):
        chip_number("Ada")


def test_the_compilers_own_words_are_passed_on() -> None:
    broken = KernelSource("index.cu", (("ELEMENT", "no_such_type"), ("INDEX", "int")))
    with pytest.raises(KernelCompilationError, match=r"index\.cu.*no_such_type"):
        compile_source(broken, "sm_90", CodeFormat.CUBIN)


def test_without_a_compiler_on_path_and_within_seconds() -> None:
    """First use of an op needs no gcc, no nvcc, no PATH at all, and stays far below 5 s."""
    script = (
        "import time; begin = time.perf_counter()\n"
        "from portable_kernels.compiler import CodeFormat, KernelSource, compile_source\n"
        "from portable_kernels.scatter.sources import segment_source\n"
        "import torch; loaded = time.perf_counter()\n"
        "compile_source(segment_source(torch.float32, 'max', 4), 'sm_120', CodeFormat.CUBIN)\n"
        "print(time.perf_counter() - loaded)\n"
    )
    environment = {"PATH": "/nonexistent", "HOME": os.environ.get("HOME", "/")}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5, time.perf_counter() - begin
