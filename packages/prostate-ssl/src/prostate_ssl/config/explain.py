"""What a key means, and what to set it to."""

from __future__ import annotations

import difflib
import math
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from prostate_ssl.config import schema
from prostate_ssl.config.loading import defaults, known_keys, load_config, scaled_learning_rate
from prostate_ssl.errors import ProstateError

PUBLISHED = "prostate_vitb14_mm-dino"
# The published advice for (GPUs, batch per GPU); between them the same square-root rule.
ADVISED_RATES = {(1, 4): 2.5e-4, (1, 8): 3.5e-4, (2, 8): 5e-4, (4, 8): 7e-4}


def explain_key(name: str) -> str:
    """Meaning, type, default of the base file and value of the published preset of a key or section.

    Raises:
        ProstateError: no such key; the nearest one is named.
    """
    doc, kind = _look_up(name)
    if is_dataclass(kind):
        below = [key for key in known_keys() if key.startswith(name + ".")]
        return f"{name}: {doc}\n" + "\n".join(f"  {key}" for key in below)
    base, preset = OmegaConf.select(defaults(), name), OmegaConf.select(_published(), name)
    text = f"{name}: {doc}\n  default: {_plain(base)}"
    if preset != base:
        text += f"\n  in the preset {PUBLISHED}: {_plain(preset)}"
    return text


@cache
def _published() -> DictConfig:
    return load_config(PUBLISHED)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _look_up(name: str) -> tuple[str, Any]:
    kind: Any = schema.Config
    doc = "The whole configuration."
    for part in name.split("."):
        found = {f.name: f for f in fields(kind)} if is_dataclass(kind) else {}
        if part not in found:
            near = difflib.get_close_matches(name, known_keys(), n=3, cutoff=0.0)
            raise ProstateError(f"There is no key {name}. Near it: {', '.join(near)}.", 2)
        doc = found[part].metadata["doc"]
        kind = get_type_hints(kind)[part]
    return doc, kind


def advised_rate(gpus: int, batch: int) -> float:
    """The published `base_lr` for a number of GPUs and a batch per GPU; elsewhere 3.5e-4 · √(total / 8)."""
    return ADVISED_RATES.get((gpus, batch), float(f"{3.5e-4 * math.sqrt(gpus * batch / 8):.2g}"))


def advised_epochs(cases: int) -> tuple[int, int]:
    """The published range of epochs for a number of training cases."""
    if cases < 100:
        return 50, 100
    return (200, 300) if cases <= 500 else (300, 500)


def suggest(cases: int, gpus: int, batch: int, base: str = PUBLISHED) -> tuple[DictConfig, list[str]]:
    """Settings by rule of thumb, and why.

    Returns:
        The keys to set, and one line per rule.
    """
    rate, (few, many) = advised_rate(gpus, batch), advised_epochs(cases)
    length = max(1, math.ceil(cases / (batch * gpus)))
    settings = OmegaConf.create(
        {
            "base": base,
            "train": {"batch_size_per_gpu": batch, "OFFICIAL_EPOCH_LENGTH": length},
            "optim": {"base_lr": rate, "epochs": many, "warmup_epochs": max(1, many // 10)},
        }
    )
    cfg = load_config(base, [f"train.batch_size_per_gpu={batch}", f"optim.base_lr={rate}"])
    effective = scaled_learning_rate(cfg, gpus)
    reasons = [
        f"OFFICIAL_EPOCH_LENGTH {length}: ceil({cases} cases / total batch {batch * gpus})",
        f"base_lr {rate:g}: published for {gpus} GPU(s), batch {batch}; after {cfg.optim.scaling_rule} the "
        f"effective rate is {effective:.3g}",
        f"epochs {few}–{many} for {cases} cases",
        "16 GB of GPU memory at least, 24 GB recommended",
    ]
    assert isinstance(settings, DictConfig)
    return settings, reasons
