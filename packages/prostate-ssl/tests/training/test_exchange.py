"""Replicas average their gradients (gloo on the CPU; `benchmarks/scale.py` runs NCCL)."""

from __future__ import annotations

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.exchange import GradientExchange
from prostate_ssl.training.parallelize import reduce_dtype

SHAPES = ((3, 5), (7,), (1,), (64, 2))  # of which some are no multiple of the alignment
STEPS = 3


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def gradients_of(rank: int, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
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
    mp.spawn(_rank, (free_port(), str(tmp_path)), nprocs=2)
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


def _unequal_rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    # As many values on both, in other shapes.
    parameter = torch.nn.Parameter(torch.zeros((2, 6) if rank else (3, 4)))
    with pytest.raises(ProstateError, match="different networks"):
        GradientExchange([(parameter, torch.float32)], torch.device("cpu"))
    dist.destroy_process_group()


def test_ranks_with_different_networks_are_refused(tmp_path):
    mp.spawn(_unequal_rank, (free_port(), str(tmp_path)), nprocs=2)


@pytest.mark.parametrize(("asked", "used"), [("fp16", "float32"), ("fp32", "float32"), ("bf16", "bfloat16")])
def test_gradients_travel_in_fp32_unless_bf16_is_asked_for(asked, used):
    key = "compute_precision.student.backbone.mixed_precision.reduce_dtype"
    cfg = load_config("demo", [f"{key}={asked}"])
    assert reduce_dtype(cfg, "backbone") is getattr(torch, used)
    assert reduce_dtype(cfg, "dino_head") is torch.float32
