"""The trainer on a GPU: memory that is not there, and exact resumption."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.metrics import read_metrics
from prostate_ssl.training.optimizer import build_optimizer, clip_gradients, update_teacher
from prostate_ssl.training.replicas import Replicas
from prostate_ssl.training.trainer import train

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu() -> None:
    """Without one, fail at once: a configuration for a large card would take the machine's own memory."""
    torch.cuda.init()


def test_a_configuration_that_cannot_fit_is_refused_before_the_first_step(small_overrides, tmp_path):
    large = ["student.arch=medical_vit_giant2", "train.batch_size_per_gpu=4096", "train.img_size=224"]
    cfg = load_config(
        "demo", [*small_overrides, *large, "crops.global_crops_size=224", f"train.output_dir={tmp_path}"]
    )
    with pytest.raises(ProstateError, match=r"needs about .* GiB of GPU memory.*What fits|preset"):
        train(cfg)
    assert not (tmp_path / "training_metrics.json").exists()


def test_running_out_of_memory_names_what_fits(small_overrides, tmp_path):
    sizes = [
        "student.arch=medical_vit_small", "student.patch_size=14", "train.img_size=224",
        "crops.global_crops_size=224", "crops.local_crops_size=112", "train.batch_size_per_gpu=32",
    ]  # fmt: skip
    cfg = load_config("demo", [*small_overrides, *sizes, f"train.output_dir={tmp_path}"])
    # A neighbour on the card, as it were: this process may have two GiB of it.
    torch.cuda.set_per_process_memory_fraction(2**31 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(ProstateError, match=r"CUDA out of memory.*What fits"):
            train(cfg)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_memory_is_flat_and_a_stopped_run_goes_on_exactly(small_overrides, tmp_path):
    common = [*small_overrides, "train.deterministic=true", "optim.epochs=20"]
    straight = load_config("demo", [*common, f"train.output_dir={tmp_path / 'one'}"])
    train(straight)
    one = read_metrics(tmp_path / "one")
    stopped = load_config("demo", [*common, f"train.output_dir={tmp_path / 'two'}"])
    train(stopped)
    for newer in ("model_0000039", "model_0000040"):
        (tmp_path / "two" / f"{newer}.rank_0.pth").unlink()
    assert train(stopped).resumed
    two = read_metrics(tmp_path / "two")
    assert [r["total_loss"] for r in one.values()] == [r["total_loss"] for r in two.values()]
    late = [record["memory_mib"] for step, record in sorted(one.items()) if int(step) >= 10]
    assert max(late) == min(late)
    torch.use_deterministic_algorithms(False)


VARIANTS = {
    "as the preset": ["train.centering=sinkhorn_knopp"],
    "published centring, separate head": ["train.centering=centering", "ibot.separate_head=true"],
    "compiled, bf16": ["train.compile=true", "precision=bf16"],
    "compiled, fp32": ["train.compile=true", "precision=fp32"],
    "recomputed blocks": ["train.activation_checkpointing=true"],
    "frozen at first": ["optim.freeze_backbone_epochs=4"],
    "labels": ["semi_supervised.loss_weight=0.5", "dino.koleo_global=true"],
    "no iBOT, no local crops": ["ibot.loss_weight=0", "crops.local_crops_number=0"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_graph_gives_the_losses_of_launched_kernels(variant, small_overrides, tmp_path):
    losses = {}
    for graph in ("true", "false"):
        more = [f"train.cuda_graph={graph}", "train.deterministic=true", "optim.epochs=10"]
        run = tmp_path / graph
        train(load_config("demo", [*small_overrides, *VARIANTS[variant], *more, f"train.output_dir={run}"]))
        records = read_metrics(run).values()
        names = ("total_loss", "grad_norm_backbone", "grad_norm_dino_head")
        losses[graph] = [record[name] for record in records for name in names if name in record]
    torch.use_deterministic_algorithms(False)
    assert len(losses["true"]) >= 40
    assert losses["true"] == losses["false"]


def test_training_leaves_the_callers_stream_as_it_was(small_overrides, tmp_path):
    before = torch.cuda.current_stream()
    train(load_config("demo", [*small_overrides, f"train.output_dir={tmp_path}"]))
    assert torch.cuda.current_stream() == before == torch.cuda.default_stream()


def test_the_host_never_waits_for_an_update_of_replicas(tmp_path):
    """One rank stands for many; a head without gradients for a rank whose share holds nothing of the head."""
    device = torch.device("cuda", 0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    student = torch.nn.ModuleDict({n: torch.nn.Linear(9, 5) for n in ("backbone", "dino_head")}).to(device)
    teacher = copy.deepcopy(student)
    sent = {name: (list(module.parameters()), torch.float32) for name, module in student.items()}
    replicas = Replicas(sent, device)
    optimizer = build_optimizer(student, load_config("demo"), replicas)
    try:
        for mode, learning in (("default", student), ("error", student), ("error", student["backbone"])):
            # What has to be set up once may wait.
            torch.cuda.set_sync_debug_mode(mode)
            for parameter in learning.parameters():
                parameter.grad = torch.ones_like(parameter)
            replicas.set_aside()
            for parameter in learning.parameters():
                parameter.grad = torch.ones_like(parameter)
            replicas.collect()
            replicas.average()
            norms = clip_gradients(student, 3.0, replicas)
            optimizer.step()
            replicas.spread()
            update_teacher(student, teacher, 0.99)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        dist.destroy_process_group()
    assert norms["backbone"].item() == pytest.approx(2 * 50**0.5) and norms["dino_head"].item() == 0
