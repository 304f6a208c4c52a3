"""The smoke test under its published call: `PROSTATE_DATA_ROOT=… python tests/test_prostate_ssl_training.py`."""

from __future__ import annotations

import os
import sys

from prostate_ssl.cli.main import run


def test_five_steps_run_and_say_so(capsys):
    from prostate_ssl.training.smoke import run_smoke_test

    assert run_smoke_test("demo", "", ("crops.global_crops_size=56", "crops.local_crops_size=28")) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("[step ")]
    assert [line.split("]")[0] for line in steps] == [f"[step {k}" for k in range(5)]
    assert all(float(line.split("loss=")[1]) > 0 for line in steps)
    assert "Smoke test completed without runtime errors." in lines
    assert "GiB of GPU memory" in lines[-1]


if __name__ == "__main__":
    root = os.environ.get("PROSTATE_DATA_ROOT", "")
    sys.exit(run(["smoke-test", *(["--data", root] if root else [])]))
