"""The trainer on a GPU: memory that is not there, and exact resumption."""

from __future__ import annotations

import pytest
import torch

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.metrics import read_metrics
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
