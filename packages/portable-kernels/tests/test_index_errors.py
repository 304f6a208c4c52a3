"""The word that a GPU reports bad indices in, whatever mode and thread it is made in."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from portable_kernels import index_errors

pytestmark = pytest.mark.gpu

# In a process of its own: the word is made once.
INFERENCE = """
import torch
from portable_kernels import scatter
from portable_kernels.errors import BadIndexError
from portable_kernels.index_errors import check_indices
src = torch.ones(4, 3, device="cuda")
with torch.inference_mode():
    scatter.scatter_sum(src, torch.tensor([0, 1, 1, 2], device="cuda"), 0, dim_size=3)
    check_indices()
try:
    scatter.scatter_sum(src, torch.tensor([0, 1, 9, 2], device="cuda"), 0, dim_size=3)
    check_indices()
except BadIndexError as error:
    print(error)
check_indices()  # once is enough
"""


def test_it_is_no_inference_tensor() -> None:
    run = subprocess.run([sys.executable, "-c", INFERENCE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "index 9 at position 2 is outside [0, 3)" in run.stdout


def test_threads_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_errors, "_flags", {})
    start = Barrier(8)

    def made(_: int) -> int:
        start.wait()
        return index_errors.flag(0).data_ptr()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(made, range(8)))) == 1
