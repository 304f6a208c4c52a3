"""What a machine without a GPU cannot hold is refused before the first step, and nothing else is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from prostate_ssl.cli.main import run
from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.memory import check_host_memory, host_memory

GIB = 2**30


def test_absurd_crops_are_refused_with_what_fits():
    with pytest.raises(ProstateError) as refused:
        check_host_memory(load_config("demo", ["crops.global_crops_size=14000"]), 24 * GIB)
    told = refused.value.message
    assert "of memory for a training on the CPU, and 24.0 are available here." in told
    assert "crops.global_crops_size=196" in told and told.endswith("or the preset demo.")


def test_only_sizes_that_the_patch_divides_are_proposed():
    cfg = load_config(
        "demo", ["student.patch_size=16", "crops.global_crops_size=16000", "crops.local_crops_size=64"]
    )
    with pytest.raises(ProstateError, match=r"crops\.global_crops_size=224"):
        check_host_memory(cfg, 24 * GIB)


# Peaks measured on a CPU, GiB: demo preset with these keys, two steps, 2 cores, 2026-11-22.
@pytest.mark.parametrize(
    ("keys", "measured"),
    [
        ([], 0.29),
        (["crops.global_crops_size=448"], 1.74),
        (["crops.global_crops_size=448", "precision=bf16"], 1.40),
        (["crops.global_crops_size=448", "train.activation_checkpointing=true"], 1.07),
        (["student.arch=medical_vit_base"], 2.90),
        (["student.arch=medical_vit_small", "crops.global_crops_size=336"], 5.46),
        (["crops.local_crops_number=64"], 0.99),
    ],
)
def test_nothing_that_was_seen_to_fit_is_refused(keys, measured):
    check_host_memory(load_config("demo", keys), int(measured * GIB))


def test_where_memory_is_unknown_nothing_is_refused(tmp_path):
    assert host_memory(tmp_path, tmp_path) is None
    check_host_memory(load_config("demo", ["crops.global_crops_size=14000"]), None)


def _machine(folder: Path, meminfo: str, **limits: str) -> tuple[Path, Path]:
    (folder / "self").mkdir()
    (folder / "meminfo").write_text(meminfo)
    (folder / "self" / "statm").write_text("900 0 300 1 0 500 0\n")
    for name, text in limits.items():
        path = folder / name.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder, folder


@pytest.mark.parametrize(
    ("meminfo", "limits", "wanted"),
    [
        ("MemTotal: 24 kB\nMemAvailable: 8 kB\nSwapFree: 4 kB\n", {}, 12 << 10),
        ("MemAvailable: 8 kB\nHugePages_Total: 0\n", {}, 8 << 10),
        ("MemAvailable: 8 kB\nSwapFree: 1 kB\n", {"memory_max": "4096\n"}, 5 << 10),
        ("MemAvailable: 8 kB\n", {"memory_max": "max\n"}, 8 << 10),
        ("MemAvailable: 8 kB\n", {"memory__memory_limit_in_bytes": "2048\n"}, 2 << 10),
        ("MemAvailable: 8 kB\n", {"memory__memory_limit_in_bytes": "9223372036854771712\n"}, 8 << 10),
        ("MemTotal: 24 kB\nMemFree: 8 kB\n", {}, None),
        ("", {}, None),
        ("MemAvailable:\n", {}, None),
    ],
)
def test_available_memory_is_read_where_the_system_tells_it(meminfo, limits, wanted, tmp_path):
    assert host_memory(*_machine(tmp_path, meminfo, **limits)) == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell it")
def test_this_machine_tells_it():
    assert GIB // 4 < host_memory() < 2**50


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its own memory is checked")
@pytest.mark.skipif(host_memory() is None, reason="the system does not tell its memory")
@pytest.mark.parametrize("verb", ["train", "smoke-test"])
def test_a_command_ends_with_the_paragraph(verb, cases, tmp_path, capsys):
    data = ["--data", str(cases)]
    output = ["--output-dir", str(tmp_path)] if verb == "train" else []
    keys = ["crops.global_crops_size=1400000"]
    assert run([verb, "--config-file", "demo", *data, *output, *keys]) == 1
    told = capsys.readouterr().err
    assert "GiB of memory for a training on the CPU" in told and told.count("\n") == 1
