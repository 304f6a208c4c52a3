"""The way from a driver library to the CSV: a library with NVML's interface, compiled here."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loads a shared object of Linux")


def test_what_the_driver_says_is_shown_and_kept(tmp_path: Path) -> None:
    source = Path(__file__).parent / "driver.c"
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", str(library), str(source)], check=True)
    file = tmp_path / "m.csv"
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "monitor"]
    ran = subprocess.run(
        [*command, "--interval", "0.1", "--duration", "0.2", "--csv", str(file)],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "LC_ALL": "C.UTF-8"},
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    first = ran.stdout.splitlines()[0]
    assert "GPU0 97 % 21.5/34.0 GB 412 W 61 °C 2407 MHz power limit" in first
    assert "GPU 0: busy 97 %, memory 22 GB, 412 W, 61 °C; slowed: power limit" in ran.stdout
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["gpu"] for row in rows} == {"0"}
    row = {name: value for name, value in rows[0].items() if name.startswith("gpu")}
    assert row == {
        "gpu": "0",
        "gpu_name": "NVIDIA RTX 5090",
        "gpu_percent": "97",
        "gpu_memory_used_bytes": "21500000000",
        "gpu_memory_total_bytes": "34000000000",
        "gpu_power_w": "412.3",
        "gpu_power_limit_w": "",
        "gpu_temperature_c": "61",
        "gpu_clock_mhz": "2407",
        "gpu_memory_clock_mhz": "14001",
        "gpu_throttle": "power-cap",
    }
