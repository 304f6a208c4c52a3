"""What a machine without a GPU cannot hold is refused before the first step, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from prostate_ssl.cli.main import run
from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.host import host_memory
from prostate_ssl.training.memory import check_host_memory, predicted_peak

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


def test_replicas_share_out_the_moments_and_hold_what_they_send_and_shards_share_the_rest():
    strategies = ("NO_SHARD", "SHARD_GRAD_OP", "FULL_SHARD")
    keys = {s: [f"compute_precision.student.backbone.sharding_strategy={s}"] for s in strategies}
    alone = predicted_peak(load_config("prostate_vitb14_mm-dino", keys["NO_SHARD"]), 1)
    replicas, partly, fully = (
        predicted_peak(load_config("prostate_vitb14_mm-dino", keys[s]), 8) for s in strategies
    )
    # 90 million parameters, of which each rank sends a gradient of 4 bytes and keeps an eighth of 8.
    assert replicas - alone == pytest.approx(90e6 * (4 + 8 / 8 - 8) / GIB, rel=0.05)
    assert fully < partly < alone


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
