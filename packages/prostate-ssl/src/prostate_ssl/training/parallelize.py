"""Everything that is done to the networks from outside, in the order in which it has to be done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from prostate_ssl.errors import ProstateError
from prostate_ssl.models.attention import use_kernel
from prostate_ssl.training.networks import SelfDistillation, network_calls
from prostate_ssl.training.replicas import Replicas
from prostate_ssl.training.session import Session, attention_kernel, wants_compile


def parallelize(networks: SelfDistillation, cfg: DictConfig, session: Session) -> None:
    """Attention kernel → activation checkpointing → compile → sharding or replication → precision.

    Checkpointing goes inside what is compiled; compiled blocks go inside the sharding, so that gathering
    weights stays outside of the graphs.

    Raises:
        ProstateError: a student module is sharded and its teacher is not, or the other way round.
    """
    kernel = attention_kernel(cfg, session.device)
    for network in (networks.student, networks.teacher):
        use_kernel(network, kernel)
    networks.student_backbone.activation_checkpointing = cfg.train.activation_checkpointing
    if wants_compile(cfg, session.device):
        compile_blocks(networks)
    if session.world_size > 1:
        distribute(networks, cfg, session)
    networks.autocast = partial(autocast, cfg.precision, session.device.type)


def autocast(precision: str, device_type: str) -> torch.autocast:
    """bf16 products with fp32 weights, or nothing."""
    return torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16")


def compile_blocks(networks: SelfDistillation) -> None:
    """Compile each block and head in place: names stay, and equal blocks share one compilation."""
    # Student global, student local, teacher, evaluation, each with and without stochastic depth.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
    for backbone in (networks.student_backbone, networks.teacher_backbone):
        for block in backbone.blocks:
            block.compile(dynamic=False)
    for network in (networks.student, networks.teacher):
        for name in ("dino_head", "ibot_head"):
            if name in network:
                network[name].compile(dynamic=False)
    networks.compile_losses()


def distribute(networks: SelfDistillation, cfg: DictConfig, session: Session) -> None:
    """Shard each module (FSDP2) or keep replicas of it, as `compute_precision` says."""
    refuse_different_networks(networks.student, cfg, session.device)
    make_equal(networks)
    mesh = init_device_mesh(session.device.type, (session.world_size,))
    whole: dict[str, tuple[list[nn.Parameter], torch.dtype]] = {}
    for name in networks.student:
        strategy = {n: cfg.compute_precision[n][name].sharding_strategy for n in ("student", "teacher")}
        if (strategy["student"] == "NO_SHARD") != (strategy["teacher"] == "NO_SHARD"):
            raise ProstateError(
                f"compute_precision: {name} is {strategy['student']} in the student, {strategy['teacher']} "
                "in the teacher. The moving average runs over equal shards: shard both or neither.",
                2,
            )
        reduced = reduce_dtype(cfg, name)
        if strategy["student"] == "NO_SHARD":
            whole[name] = (list(networks.student[name].parameters()), reduced)
        else:
            shard(networks.student[name], mesh, strategy["student"], reduced)
            shard(networks.teacher[name], mesh, strategy["teacher"], reduced)
            # Sharding wraps the methods: they are looked up anew.
            networks.student_call[name] = network_calls(networks.student)[name]
            networks.teacher_call[name] = network_calls(networks.teacher)[name]
    strategies = {n: cfg.compute_precision.student[n].sharding_strategy for n in networks.student}
    networks.gradient_sync = partial(gradient_sync, networks, strategies)
    if whole:
        networks.replicas = Replicas(whole, session.device)


def refuse_different_networks(student: nn.Module, cfg: DictConfig, device: torch.device) -> None:
    """Ranks with other parameters, or that keep them in another way, would wait for ever or mix them up.

    Raises:
        ProstateError: on every rank, if they are not all alike.
    """
    shapes = [(name, tuple(parameter.shape)) for name, parameter in student.named_parameters()]
    told = repr((shapes, OmegaConf.to_container(cfg.compute_precision))).encode()
    digest = int.from_bytes(hashlib.blake2b(told, digest_size=7).digest(), "big")
    ends = torch.tensor([digest, -digest], device=device)
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    if ends.sum() != 0:
        raise ProstateError(
            "The ranks train different networks: start all of them with the same configuration and the same "
            "version of prostate-ssl."
        )


@torch.no_grad()
def make_equal(networks: nn.Module) -> None:
    """Give every rank the weights of rank 0: other processors may draw them a last bit apart."""
    for parameter in networks.parameters():
        dist.broadcast(parameter, 0)


def reduce_dtype(cfg: DictConfig, module: str) -> torch.dtype:
    """In what the gradients of a student's module travel between ranks: fp32, unless bf16 is asked for."""
    asked = cfg.compute_precision.student[module].mixed_precision.reduce_dtype
    return torch.bfloat16 if asked == "bf16" else torch.float32


def shard(module: nn.Module, mesh: DeviceMesh, strategy: str, reduced: torch.dtype) -> None:
    """FSDP2: every block is a unit; FULL_SHARD frees gathered weights after the forward pass."""
    reshard, policy = strategy == "FULL_SHARD", MixedPrecisionPolicy(reduce_dtype=reduced)
    for block in getattr(module, "blocks", []):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    fully_shard(module, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    if hasattr(module, "forward_features"):
        register_fsdp_forward_method(module, "forward_features")


@contextmanager
def gradient_sync(networks: SelfDistillation, strategies: dict[str, str], sync: bool) -> Iterator[None]:
    """Within it, backward passes of sharded modules exchange gradients (True) or only add them up (False).

    Those of replicas are exchanged after the last pass, and set aside until then.

    With SHARD_GRAD_OP weights stay gathered after a backward pass that exchanges nothing: the next forward
    pass of the step needs them again.
    """
    for name, module in networks.student.items():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(sync)
            module.set_reshard_after_backward(sync or strategies[name] == "FULL_SHARD")
    yield
    if networks.replicas is not None and not sync:
        networks.replicas.set_aside()
