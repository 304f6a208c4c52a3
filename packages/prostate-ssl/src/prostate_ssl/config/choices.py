"""Keys whose values come from a short list, and what is said of another one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prostate_ssl.errors import ProstateError

ARCHITECTURES = tuple(
    f"{family}_{size}"
    for family in ("medical_vit", "glioma_vit")
    for size in ("tiny", "small", "base", "large", "giant2")
)
METRICS = ("mcc", "accuracy", "f1", "auc", "mean_per_class_accuracy")
_METRIC_ALIASES = {"mean_accuracy": "accuracy", "multiclass_auc": "auc", "binary_auc": "auc"}  # published
_CHOICES = {
    "precision": ("fp32", "bf16"),
    "train.centering": ("centering", "sinkhorn_knopp"),
    "train.compile": ("auto", "true", "false"),
    "train.cuda_graph": ("auto", "true", "false"),
    "train.attention": ("auto", "sdpa", "flex", "tf32"),
    "student.ffn_layer": ("mlp", "swiglu", "swiglufused"),
    "optim.scaling_rule": ("sqrt_wrt_1024", "identity"),
    "crops.intensity_aug": ("rc", "color_jittering", "none", "bspline", "histogram", "None", ""),
}
_SHARDING = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD")
_DTYPES = ("fp32", "fp16", "bf16")


def refuse_unknown(name: str, value: Any, choices: Sequence[str]) -> None:
    """Compare a value with the known ones.

    Raises:
        ProstateError: it is none of them; the nearest and all others are named.
    """
    if value in choices:
        return
    named = [choice for choice in choices if choice and choice != "None"]
    by_case = {choice.lower(): choice for choice in named}
    near = by_case[difflib.get_close_matches(str(value).lower(), by_case, n=1, cutoff=0.0)[0]]
    raise ProstateError(
        f"{name} is {value!r}; the nearest known value is {near}. Known: {', '.join(named)}.", 2
    )


def refuse_unknown_architecture(arch: str) -> None:
    """As `refuse_unknown`; the published suffix `_memeff` means nothing here."""
    if arch.removesuffix("_memeff") not in ARCHITECTURES:
        family = "glioma" if arch.startswith("gl") else "medical"
        refuse_unknown("student.arch", arch, [name for name in ARCHITECTURES if name.startswith(family)])


def metric_names(names: Sequence[Any]) -> tuple[str, ...]:
    """The metrics in lower case, published aliases replaced.

    Raises:
        ProstateError: no metric, or an unknown one.
    """
    lower = [str(getattr(name, "value", name)).lower() for name in names]
    plain = tuple(_METRIC_ALIASES.get(name, name) for name in lower)
    for name in plain or [""]:
        refuse_unknown("evaluation.metric_types", name, METRICS)
    return plain


def check_choices(cfg: DictConfig) -> None:
    """Refuse what is in no list.

    Raises:
        ProstateError: the key, its value and the nearest known one.
    """
    for name, choices in _CHOICES.items():
        value = OmegaConf.select(cfg, name)
        # YAML's false, written into a key that holds text, becomes "False".
        shown = str(value).lower() if str(value) in ("True", "False") else value
        if shown is not None:
            refuse_unknown(name, shown, choices)
    for name, value, choices in _of_modules(cfg.compute_precision):
        refuse_unknown(name, value, choices)
    metric_names(cfg.evaluation.metric_types)


def _of_modules(precision: DictConfig) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for network in ("student", "teacher"):
        for module, settings in precision[network].items():
            where = f"compute_precision.{network}.{module}"
            yield f"{where}.sharding_strategy", settings.sharding_strategy, _SHARDING
            for key, dtype in settings.mixed_precision.items():
                yield f"{where}.mixed_precision.{key}", dtype, _DTYPES
