"""Several processes (gloo on the CPU) do what one process does on the joined batch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from prostate_ssl.config import load_config
from prostate_ssl.objectives import RunningCenter, koleo_loss, semi_supervised_loss, sinkhorn_knopp
from prostate_ssl.training.checkpoint import checkpoint_name, read_checkpoint
from prostate_ssl.training.metrics import read_metrics
from prostate_ssl.training.trainer import train


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def labelled_loss(rows: slice) -> list[torch.Tensor]:
    """Semi-supervised loss of some cases and its gradient; every rank of two has other classes."""
    scores = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(2))[:, rows].requires_grad_()
    labels = torch.tensor([0, 0, 1, -1, 0, 1, 2, 2, 2, -1, -1, 1])[rows]
    loss = semi_supervised_loss(scores, labels, classes=4, temperature=0.5, label_smoothing=0.1)
    loss.backward()
    assert scores.grad is not None
    return [loss.detach(), scores.grad]


def _objectives_rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    whole = torch.randn(12, 7, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(12) % 5 != 0
    rows = slice(0, 6) if rank == 0 else slice(6, 12)
    center = RunningCenter((1, 7))
    targets = center.targets(whole[rows], 0.05, valid[rows])
    unmoved = center.center.clone()
    center.settle()
    results = {
        "center": [targets, center.center, unmoved],
        "sinkhorn": [sinkhorn_knopp(whole[rows], 0.05, valid[rows])],
    }
    x = whole[rows].clone().requires_grad_()
    loss = koleo_loss(x, over_ranks=True)
    loss.backward()
    results["koleo"] = [loss.detach(), x.grad]
    results["labelled"] = labelled_loss(rows)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_objectives_over_several_ranks_see_the_joined_batch(tmp_path):
    mp.spawn(_objectives_rank, (free_port(), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in range(2)]
    whole = torch.randn(12, 7, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(12) % 5 != 0
    center = RunningCenter((1, 7))
    targets = center.targets(whole, 0.05, valid)
    center.settle()
    assert torch.allclose(torch.cat([r["center"][0] for r in ranks]), targets, atol=1e-6)
    assert all(torch.allclose(r["center"][1], center.center, atol=1e-6) for r in ranks)
    assert not any(r["center"][2].any() for r in ranks)
    joined = torch.cat([r["sinkhorn"][0] for r in ranks])
    assert torch.allclose(joined, sinkhorn_knopp(whole, 0.05, valid), atol=1e-6)
    x = whole.clone().requires_grad_()
    loss = koleo_loss(x)
    loss.backward()
    assert torch.allclose(sum(r["koleo"][0] for r in ranks) / 2, loss, atol=1e-6)
    # Data parallelism averages gradients over the ranks.
    assert torch.allclose(torch.cat([r["koleo"][1] for r in ranks]) / 2, x.grad, atol=1e-5)
    loss, gradient = labelled_loss(slice(0, 12))
    assert torch.allclose(sum(r["labelled"][0] for r in ranks) / 2, loss, atol=1e-6)
    assert torch.allclose(torch.cat([r["labelled"][1] for r in ranks], 1) / 2, gradient, atol=1e-6)


def torchrun_command(
    overrides: list[str], folder: Path, ranks: int = 2, port: int | None = None, nodes: tuple[str, ...] = ()
) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--master_addr=127.0.0.1",
        f"--master_port={port or free_port()}", *nodes, "-m", "prostate_ssl.train", "--config-file", "demo",
        "--output-dir", str(folder), *overrides,
    ]  # fmt: skip


def torchrun(overrides: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = torchrun_command(overrides, folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def sharding(strategy: str) -> list[str]:
    return [
        f"compute_precision.{network}.{module}.sharding_strategy={strategy}"
        for network in ("student", "teacher")
        for module in ("backbone", "dino_head")
    ]


def losses(folder: Path) -> dict[int, float]:
    return {i: r["total_loss"] for i, r in read_metrics(folder).items()}


def trained_here(overrides: list[str], folder: Path) -> dict[int, float]:
    """Losses of a training on one rank."""
    train(load_config("demo", [*overrides, f"train.output_dir={folder}"]))
    return losses(folder)


@pytest.mark.parametrize(
    ("strategy", "centering"),
    [
        pytest.param("NO_SHARD", "centering", marks=pytest.mark.slow),
        ("SHARD_GRAD_OP", "sinkhorn_knopp"),
        pytest.param("FULL_SHARD", "centering", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_train_as_one_and_resume_as_one(strategy, centering, small_overrides, tmp_path):
    common = [
        *small_overrides,
        "dino.koleo_global=true",
        f"train.centering={centering}",
        "student.layerscale=1e-5",
        "semi_supervised.loss_weight=0.5",
    ]
    one = trained_here(common, tmp_path / "one")

    half = [*common, "train.batch_size_per_gpu=1"]
    done = torchrun([*half, *sharding(strategy)], tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    two = losses(tmp_path / "two")
    # The log holds this rank's loss averaged over the ranks, so it is the joined batch's.
    assert two.keys() == one.keys()
    assert max(abs(two[i] - one[i]) for i in one) <= 1e-4
    for newer in (9, 12):
        (tmp_path / "two" / f"model_{newer:07d}.rank_0.pth").unlink()
    again = trained_here(common, tmp_path / "two")
    assert max(abs(again[i] - one[i]) for i in one) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "head"),
    [("SHARD_GRAD_OP", "SHARD_GRAD_OP"), ("NO_SHARD", "FULL_SHARD"), ("SHARD_GRAD_OP", "NO_SHARD")],
)
def test_each_part_may_be_kept_in_its_own_way_and_be_frozen_at_first(
    backbone, head, small_overrides, tmp_path
):
    common = [*small_overrides, "dino.koleo_global=true", "optim.freeze_backbone_epochs=2"]
    one = trained_here(common, tmp_path / "one")
    ways = [way for way in sharding(backbone) if ".backbone." in way]
    ways += [way for way in sharding(head) if ".dino_head." in way]
    done = torchrun([*common, "train.batch_size_per_gpu=1", *ways], tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    two = losses(tmp_path / "two")
    assert two.keys() == one.keys()
    assert max(abs(two[i] - one[i]) for i in one) <= 1e-4


def optimizer_of(folder: Path, iteration: int) -> dict[str, dict[str, torch.Tensor]]:
    content: dict[str, dict[str, torch.Tensor]] = read_checkpoint(folder / checkpoint_name(iteration))[
        "optimizer"
    ]
    return content


@pytest.mark.slow
def test_replicas_save_what_one_rank_saves_and_go_on_from_it(small_overrides, tmp_path):
    common = [
        *small_overrides,
        "dino.koleo_global=true",
        "optim.freeze_backbone_epochs=2",
        "train.max_to_keep=4",
    ]
    one = trained_here(common, tmp_path / "one")
    half = [*common, "train.batch_size_per_gpu=1", *sharding("NO_SHARD")]
    done = torchrun(half, tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    two = losses(tmp_path / "two")
    for iteration in (3, 12):  # the backbone has no state yet, and later
        wanted, got = optimizer_of(tmp_path / "one", iteration), optimizer_of(tmp_path / "two", iteration)
        assert got.keys() == wanted.keys() and len(got) > 0
        for name, state in wanted.items():
            assert {k: (v.shape, v.dtype) for k, v in got[name].items()} == {
                k: (v.shape, v.dtype) for k, v in state.items()
            }
            assert got[name]["step"] == state["step"]
            apart = (got[name]["exp_avg"] - state["exp_avg"]).abs().max()
            assert apart <= 1e-3 * state["exp_avg"].abs().max() + 1e-7, name

    for folder, reference, tolerance in (("two", two, 0), ("one", one, 1e-4)):
        for newer in (6, 9, 12):
            (tmp_path / folder / checkpoint_name(newer)).unlink(missing_ok=True)
        done = torchrun(half, tmp_path / folder)
        assert done.returncode == 0, done.stdout + done.stderr
        again = losses(tmp_path / folder)
        assert again.keys() == reference.keys()
        assert max(abs(again[i] - reference[i]) for i in reference) <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["NO_SHARD", "FULL_SHARD"])
def test_gradients_that_travel_as_bf16_train_nearly_the_same(strategy, small_overrides, tmp_path):
    common = [*small_overrides, "dino.koleo_global=true"]
    one = trained_here(common, tmp_path / "one")
    key = "compute_precision.student.backbone.mixed_precision.reduce_dtype=bf16"
    done = torchrun([*common, "train.batch_size_per_gpu=1", *sharding(strategy), key], tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    two = losses(tmp_path / "two")
    apart = max(abs(two[i] - one[i]) for i in one)
    assert 1e-6 < apart <= 0.05, apart


@pytest.mark.slow
def test_two_nodes_train_as_one(small_overrides, tmp_path):
    """Two launchers that meet, as on two machines; a third rank shares one of them."""
    common = [*small_overrides, "dino.koleo_global=true", "train.centering=centering"]
    one = trained_here([*common, "train.batch_size_per_gpu=3"], tmp_path / "one")
    half = [*common, "train.batch_size_per_gpu=1", *sharding("NO_SHARD")]
    port = free_port()
    nodes = []
    for node, ranks in enumerate((2, 1)):
        place = ("--nnodes=2", f"--node_rank={node}")
        command = torchrun_command(half, tmp_path / "two", ranks, port, place)
        nodes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    two = losses(tmp_path / "two")
    assert two.keys() == one.keys()
    assert max(abs(two[i] - one[i]) for i in one) <= 1e-4


@pytest.mark.slow
def test_a_failing_rank_stops_all_of_them_with_one_message(small_overrides, tmp_path):
    overrides = [*small_overrides, "optim.base_lr=1e30", "optim.clip_grad=0", "optim.epochs=300"]
    done = torchrun(overrides, tmp_path / "run")
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "NaN detected in loss" in text and text.count("error: NaN detected") == 1


@pytest.mark.slow
def test_replicas_need_no_gradient_for_what_does_not_learn(small_overrides, tmp_path):
    overrides = [
        *small_overrides,
        *sharding("NO_SHARD"),
        "student.use_mri_seq_embed=false",
        "optim.freeze_backbone_epochs=2",
        "optim.epochs=4",
    ]
    done = torchrun(overrides, tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_killed_rank_stops_all_of_them_within_a_minute(small_overrides, tmp_path):
    command = torchrun_command([*small_overrides, "optim.epochs=3000"], tmp_path / "run")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(read_metrics(tmp_path / "run")) < 3:
        time.sleep(0.2)
    ranks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


@pytest.mark.slow
def test_what_is_wrong_on_every_rank_is_said_once(small_overrides, tmp_path):
    nowhere = f"train.dataset_path=ProstateSSL:split=TRAIN:root={tmp_path / 'nowhere'}"
    done = torchrun([*small_overrides, nowhere], tmp_path / "run")
    text = done.stdout + done.stderr
    assert done.returncode != 0 and text.count("error: The data folder") == 1
