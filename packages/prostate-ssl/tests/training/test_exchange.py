"""Replicas average their gradients (gloo on the CPU; `benchmarks/scale.py` runs NCCL)."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.exchange import GradientExchange
from prostate_ssl.training.parallelize import make_equal, reduce_dtype, refuse_different_networks

SHAPES = ((3, 5), (7,), (1,), (64, 2))  # of which some are no multiple of the alignment
STEPS = 3


def gradients_of(rank: int, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def _join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)


def _rank(rank: int, folder: str) -> None:
    _join(rank, folder)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    kinds = (torch.float32, torch.bfloat16, torch.float32, torch.bfloat16)
    exchange = GradientExchange(zip(parameters, kinds, strict=True), torch.device("cpu"))
    seen = []
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, gradients_of(rank, step), strict=True):
            # The last step is one in which the first parameter does not learn.
            parameter.grad = None if step + 1 == STEPS and parameter is parameters[0] else gradient
        exchange.collect()
        exchange.average()
        seen.append([None if p.grad is None else p.grad.clone() for p in parameters])
        assert exchange.passed is None
    torch.save(seen, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_every_rank_gets_the_mean_of_all_gradients(tmp_path):
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for step in range(STEPS):
        wanted = [(a + b) / 2 for a, b in zip(gradients_of(0, step), gradients_of(1, step), strict=True)]
        for got in (rank[step] for rank in ranks):
            assert (got[0] is None) == (step + 1 == STEPS)
            for index, (mean, target) in enumerate(zip(got, wanted, strict=True)):
                if mean is None:
                    continue
                assert mean.dtype == torch.float32
                if index % 2 == 0:
                    assert torch.equal(mean, target)
                else:  # went as bf16: both summands and their sum are rounded to 8 bits
                    assert not torch.equal(mean, target)
                    sizes = sum(gradients_of(rank, step)[index].abs() for rank in range(2))
                    assert ((mean - target).abs() <= 2**-8 * sizes).all()


def _unequal_rank(rank: int, folder: str, shapes: list[tuple[int, int]], ways: list[str]) -> None:
    _join(rank, folder)
    key = "compute_precision.student.backbone.sharding_strategy"
    cfg = load_config("demo", [f"{key}={ways[rank]}"])
    network = torch.nn.Linear(*shapes[rank])
    with pytest.raises(ProstateError, match="different networks"):
        refuse_different_networks(network, cfg, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("shapes", "ways"),
    [
        ([(2, 6), (5, 3)], ["NO_SHARD", "NO_SHARD"]),  # as many values
        ([(2, 6), (2, 6)], ["NO_SHARD", "FULL_SHARD"]),
    ],
)
def test_ranks_with_different_networks_are_refused(shapes, ways, tmp_path):
    mp.spawn(_unequal_rank, (str(tmp_path), shapes, ways), nprocs=2)


def _rank_with_weights_of_its_own(rank: int, folder: str) -> None:
    _join(rank, folder)
    network = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(network.weight, rank + 1.0)
    refuse_different_networks(network, load_config("demo"), torch.device("cpu"))
    make_equal(network)
    assert (network.weight == 1.0).all()
    dist.destroy_process_group()


def test_every_rank_begins_with_the_weights_of_the_first(tmp_path):
    mp.spawn(_rank_with_weights_of_its_own, (str(tmp_path),), nprocs=2)


@pytest.mark.parametrize(("asked", "used"), [("fp16", "float32"), ("fp32", "float32"), ("bf16", "bfloat16")])
def test_gradients_travel_in_fp32_unless_bf16_is_asked_for(asked, used):
    key = "compute_precision.student.backbone.mixed_precision.reduce_dtype"
    cfg = load_config("demo", [f"{key}={asked}"])
    assert reduce_dtype(cfg, "backbone") is getattr(torch, used)
    assert reduce_dtype(cfg, "dino_head") is torch.float32
