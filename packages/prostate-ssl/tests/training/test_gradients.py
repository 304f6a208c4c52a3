"""When steps are recorded as a CUDA graph, and what is said if they cannot be; `test_gpu.py` has the graphs."""

from __future__ import annotations

import pytest
import torch

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.gradients import LaunchedGradients, build_gradients, first_cause, wants_graph
from prostate_ssl.training.networks import SelfDistillation
from prostate_ssl.training.session import Session

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
REPLICATED = [
    f"compute_precision.{network}.{module}.sharding_strategy=NO_SHARD"
    for network in ("student", "teacher")
    for module in ("backbone", "dino_head")
]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING", "TORCH_NCCL_BLOCKING_WAIT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("session", "keys", "wanted"),
    [
        (Session(CPU, 0, 1), [], False),
        (Session(GPU, 0, 1), [], True),
        (Session(GPU, 0, 1), ["train.cuda_graph=false"], False),
        (Session(GPU, 0, 4), [], False),  # the preset shards
        (Session(GPU, 0, 4), REPLICATED, True),  # a head that is not there does not count
        (Session(GPU, 0, 4), [*REPLICATED, "ibot.separate_head=true"], False),
        (Session(CPU, 0, 2), REPLICATED, False),
    ],
)
def test_auto_records_on_gpus_that_do_not_share_the_weights_out(session, keys, wanted):
    assert wants_graph(load_config("demo", keys), session) is wanted


@pytest.mark.parametrize(
    ("session", "keys"),
    [(Session(CPU, 0, 1), []), (Session(GPU, 0, 2), []), (Session(CPU, 0, 2), REPLICATED)],
)
def test_what_cannot_be_recorded_is_refused_only_if_it_is_asked_for(session, keys):
    with pytest.raises(ProstateError, match=r"needs a GPU and, on several of them.*NO_SHARD"):
        wants_graph(load_config("demo", [*keys, "train.cuda_graph=true"]), session)


def test_who_looks_for_the_call_that_fails_gets_single_calls(monkeypatch):
    cfg = load_config("demo")
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")
    assert wants_graph(cfg, Session(GPU, 0, 1))
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    assert not wants_graph(cfg, Session(GPU, 0, 1))
    assert wants_graph(load_config("demo", ["train.cuda_graph=true"]), Session(GPU, 0, 1))


def test_gradients_are_those_of_one_batch(small_config):
    torch.manual_seed(0)
    networks = SelfDistillation(small_config)
    gradients = build_gradients(networks, small_config, Session(CPU, 0, 1))
    assert type(gradients) is LaunchedGradients
    for parameter in networks.student.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    seen = []
    networks.forward_backward = lambda batch, step: seen.append(  # type: ignore[method-assign]
        [p.grad for p in networks.student.parameters()]
    )
    gradients(None, None)  # type: ignore[arg-type]
    assert seen == [[None] * len(list(networks.student.parameters()))]


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        (RuntimeError("operation not permitted when stream is capturing\nmore"), "operation not permitted"),
        (ValueError(), "ValueError"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_what_ended_a_recording_is_said_not_that_it_ended(inside, told):
    def fail() -> None:
        try:
            raise inside
        finally:
            raise RuntimeError("capture_end: offset increment outside graph capture")

    with pytest.raises(RuntimeError) as caught:
        fail()
    cause = first_cause(caught.value)
    if told is None:
        assert cause is inside
    else:
        assert isinstance(cause, ProstateError)
        assert told in cause.message and "train.cuda_graph=false" in cause.message
        assert "capture_end" not in cause.message
