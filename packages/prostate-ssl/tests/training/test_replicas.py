"""Replicas share out their updates (gloo on the CPU; `benchmarks/scale.py` runs NCCL)."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from prostate_ssl.batch import CropBatch
from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.parallelize import make_equal, reduce_dtype, refuse_different_networks
from prostate_ssl.training.replicas import Replicas
from prostate_ssl.training.watch import Pending, refuse_nan

SHAPES = ((3, 5), (7,), (1,), (64, 2))  # of which some are no multiple of the alignment
STEPS = 3


def gradients_of(rank: int, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def _join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)


def _halve_into_two_passes(replicas: Replicas, parameters: list[torch.nn.Parameter]) -> None:
    """Parameter 0 has a gradient only in the first pass, 1 only in the second, all others in both."""
    whole = [parameter.grad for parameter in parameters]
    share = [1.0, 0.0, *(0.5 for _ in parameters[2:])]
    for parameter, gradient, s in zip(parameters, whole, share, strict=True):
        parameter.grad = gradient * s if s else None
    replicas.set_aside()
    assert all(parameter.grad is None for parameter in parameters)
    for parameter, gradient, s in zip(parameters, whole, share, strict=True):
        parameter.grad = gradient * (1 - s) if s < 1 else None


def _rank(rank: int, folder: str) -> None:
    """Steps of two modules, whose gradients travel in different dtypes, with a stand-in for AdamW."""
    _join(rank, folder)
    parameters = [torch.nn.Parameter(torch.full(shape, 1.0)) for shape in SHAPES]
    modules = {"exact": (parameters[::2], torch.float32), "rounded": (parameters[1::2], torch.bfloat16)}
    replicas = Replicas(modules, torch.device("cpu"))
    assert replicas.passed is None and replicas.modules == {"exact", "rounded"}
    seen = []
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, gradients_of(rank, step), strict=True):
            # The last step is one in which the first parameter does not learn.
            parameter.grad = None if step + 1 == STEPS and parameter is parameters[0] else gradient
        if (
            step == 1
        ):  # two passes: half of each gradient in the first, where some parameters have theirs alone
            _halve_into_two_passes(replicas, parameters)
        replicas.collect()
        replicas.average()
        assert all(parameter.grad is None for parameter in parameters)
        before = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for share in replicas.shares(parameters):
                if share.grad is not None:
                    share -= share.grad
        replicas.spread()
        seen.append([b - p.detach() for b, p in zip(before, parameters, strict=True)])
    updated = [(p, replicas.share(p)) for p in parameters]
    spans = [None if s is None else (s.span.start, s.span.stop) for _, s in updated]
    state = {
        s.values: {"step": torch.tensor(index + 5.0), "exp_avg": p.detach().flatten()[s.span].clone()}
        for index, (p, s) in enumerate(updated)
        if s is not None and index != 1
    }
    whole = replicas.whole_state(state)
    torch.save([seen, spans, [whole.get(p) for p in parameters], parameters], f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Of both ranks: updates by step, spans that they updated, gathered states, parameters."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def test_every_rank_gets_the_mean_of_all_gradients(ranks):
    for step in range(STEPS):
        wanted = [(a + b) / 2 for a, b in zip(gradients_of(0, step), gradients_of(1, step), strict=True)]
        for got in (rank[0][step] for rank in ranks):
            for index, (mean, target) in enumerate(zip(got, wanted, strict=True)):
                if index == 0 and step + 1 == STEPS:
                    assert not mean.any()
                elif index % 2 == 0:
                    assert (mean - target).abs().max() <= 1e-6
                else:  # went as bf16: both summands and their sum are rounded to 8 bits
                    assert (mean - target).abs().max() > 1e-6
                    sizes = sum(gradients_of(rank, step)[index].abs() for rank in range(2))
                    assert ((mean - target).abs() <= 2**-8 * sizes + 1e-6).all()


def test_every_value_is_updated_by_one_rank(ranks):
    for index, shape in enumerate(SHAPES):
        spans = sorted(rank[1][index] for rank in ranks if rank[1][index])
        assert spans[0][0] == 0 and spans[-1][1] == torch.Size(shape).numel()
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert any(rank[1][3] for rank in ranks) and len({str(rank[1]) for rank in ranks}) == 2


def test_states_are_put_together_from_the_ranks(ranks):
    for _, _, states, parameters in ranks:
        assert states[1] is None  # nobody has one
        for index in (0, 2, 3):
            assert torch.equal(states[index]["exp_avg"], parameters[index])
            assert states[index]["step"] == index + 5


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


def _rank_that_meets_a_nan(rank: int, folder: str) -> None:
    _join(rank, folder)
    crops = torch.full((2, 1, 2, 2), float("nan") if rank == 1 else 0.5)
    nothing = torch.zeros(1, dtype=torch.bool)
    batch = CropBatch(crops, crops, nothing, nothing, torch.tensor([rank]))
    entry = Pending(4, ("total_loss",), torch.tensor([float("nan")]), None, batch)
    # The first rank's message is the one that is read.
    with pytest.raises(ProstateError, match=r"crops of the_second hold NaN.*iteration_4\.rank_\*\.json"):
        refuse_nan(entry, {"total_loss": float("nan")}, ["the_first", "the_second"], Path(folder), rank)
    assert (Path(folder) / "post_mortem" / f"iteration_4.rank_{rank}.pt").exists()
    dist.destroy_process_group()


def test_every_rank_names_the_case_that_one_of_them_met(tmp_path):
    mp.spawn(_rank_that_meets_a_nan, (str(tmp_path),), nprocs=2)


@pytest.mark.parametrize(("asked", "used"), [("fp16", "float32"), ("fp32", "float32"), ("bf16", "bfloat16")])
def test_gradients_travel_in_fp32_unless_bf16_is_asked_for(asked, used):
    key = "compute_precision.student.backbone.mixed_precision.reduce_dtype"
    cfg = load_config("demo", [f"{key}={asked}"])
    assert reduce_dtype(cfg, "backbone") is getattr(torch, used)
    assert reduce_dtype(cfg, "dino_head") is torch.float32
