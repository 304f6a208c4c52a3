"""`portable-kernels check` and its document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def _check(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PORTABLE_KERNELS_CACHE": str(cache), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "portable_kernels", "check", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def test_every_op_compiles(cache: Path) -> None:
    done = _check(cache, "--chip", "sm_120", "--json")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["schema"] == "portable-kernels/check/1"
    assert document["ok"]
    assert document["chips"] == ["sm_120"]
    assert {"scatter_max", "segment_mean_csr", "gather_coo", "knn_points", "marching_cubes", "distCUDA2"} <= {
        row["op"] for row in document["ops"]
    }
    assert any(cache.rglob("*.cubin"))


@pytest.mark.slow
def test_the_table(cache: Path) -> None:
    done = _check(cache, "--chip", "sm_120")
    assert done.returncode == 0
    assert "scatter_max" in done.stdout
    assert "ok" in done.stdout


@pytest.mark.slow
def test_a_chip_that_cannot_be_served_fails_in_words(cache: Path) -> None:
    done = _check(cache, "--chip", "sm_20")
    assert done.returncode == 1
    assert "oldest chip" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.gpu
def test_every_op_agrees_with_its_reference_on_this_gpu(cache: Path) -> None:
    done = _check(cache, "--json")
    document = json.loads(done.stdout)
    assert document["ok"], [row for row in document["ops"] if row["error"]]
    assert all(row["first_use_seconds"] < 5 for row in document["ops"])
