"""Reading a configuration: defaults ← file or preset ← `key=value`, checked key by key."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from prostate_ssl.config.choices import ARCHITECTURES, check_choices, refuse_unknown_architecture
from prostate_ssl.config.schema import Config
from prostate_ssl.errors import ProstateError
from prostate_ssl.files import write_atomically

_ANY = float("inf")
# Least and greatest value, both allowed.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        (
            "train.batch_size_per_gpu",
            "train.saveckp_freq",
            "train.max_to_keep",
            "train.log_every",
            "student.patch_size",
            "optim.epochs",
            "dino.head_n_prototypes",
            "dino.head_nlayers",
            "dino.head_bottleneck_dim",
            "dino.head_hidden_dim",
            "ibot.head_n_prototypes",
            "ibot.head_nlayers",
            "ibot.head_bottleneck_dim",
            "ibot.head_hidden_dim",
            "crops.global_crops_size",
            "crops.local_crops_size",
        ),
        (1, _ANY),
    ),
    **dict.fromkeys(
        (
            "train.num_workers",
            "train.saveckp_iterations",
            "student.num_register_tokens",
            "student.layerscale",
            "dino.loss_weight",
            "dino.koleo_loss_weight",
            "ibot.loss_weight",
            "semi_supervised.loss_weight",
            "teacher.warmup_teacher_temp_epochs",
            "optim.weight_decay",
            "optim.weight_decay_end",
            "optim.base_lr",
            "optim.min_lr",
            "optim.warmup_epochs",
            "optim.freeze_last_layer_epochs",
            "optim.freeze_backbone_epochs",
            "optim.clip_grad",
            "optim.patch_embed_lr_mult",
            "crops.local_crops_number",
            "crops.max_blur_radius",
            "crops.min_roi_voxels",
            "evaluation.eval_period_iterations",
        ),
        (0, _ANY),
    ),
    **dict.fromkeys(
        (
            "train.percentage_labels",
            "train.max_bad_share",
            "ibot.mask_sample_probability",
            "semi_supervised.label_smoothing",
            "student.interpolate_offset",
            "teacher.momentum_teacher",
            "teacher.final_momentum_teacher",
        ),
        (0, 1),
    ),
    **dict.fromkeys(("student.drop_path_rate", "optim.adamw_beta1", "optim.adamw_beta2"), (0, 0.999999)),
    "train.seed": (0, 2**63 - 1),
    **dict.fromkeys(
        ("teacher.warmup_teacher_temp", "teacher.teacher_temp", "semi_supervised.temperature"), (1e-6, _ANY)
    ),
    "optim.layerwise_decay": (1e-6, 1),
    "crops.bias_field": (0, 2),
}


@cache
def defaults() -> DictConfig:
    """All keys with the defaults of the published base file; read-only."""
    cfg: DictConfig = OmegaConf.structured(Config)
    OmegaConf.set_readonly(cfg, True)
    return cfg


@cache
def known_keys() -> tuple[str, ...]:
    """Every key, dotted, leaves only."""
    return tuple(_leaves(defaults()))


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, node):
        child = node._get_node(name)
        if isinstance(child, DictConfig):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def preset_names() -> list[str]:
    """Names that `--config-file` takes beside a path."""
    folders = (_packaged("train"), _packaged("presets"))
    return sorted(f.name[:-5] for folder in folders for f in folder.iterdir() if f.name.endswith(".yaml"))


def preset_summary(name: str) -> str:
    """The first line of a preset: what it trains, on which card, with its measured memory."""
    files = (_packaged(folder).joinpath(f"{name}.yaml") for folder in ("train", "presets"))
    text: str = next(file.read_text(encoding="utf-8") for file in files if file.is_file())
    return text.splitlines()[0].removeprefix("# ")


def _packaged(folder: str) -> Any:
    return resources.files("prostate_ssl.config").joinpath(folder)


def read_layer(name_or_path: str | Path, above: tuple[str | Path, ...] = ()) -> DictConfig:
    """The keys of one file or packaged preset, unchecked; a key `base` names the one that it stands on.

    Args:
        name_or_path: the file or preset.
        above: files that stand on it.

    Raises:
        ProstateError: no such file or preset; not YAML.
    """
    path = Path(name_or_path)
    text = None
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ProstateError(f"{path} is not UTF-8 text: save it as UTF-8 YAML.", 2) from error
    else:
        for folder in ("train", "presets"):
            packaged = _packaged(folder).joinpath(f"{Path(name_or_path).name.removesuffix('.yaml')}.yaml")
            if packaged.is_file():
                text = packaged.read_text(encoding="utf-8")
    if text is None:
        raise ProstateError(
            f"No configuration file {name_or_path}, and no preset of that name. "
            f"Presets: {', '.join(preset_names())}.",
            2,
        )
    try:
        layer = OmegaConf.create(text)
    except Exception as error:  # the YAML library has many errors for one thing
        raise ProstateError(f"{name_or_path} is not valid YAML: {error}", 2) from error
    if not isinstance(layer, DictConfig):
        raise ProstateError(f"{name_or_path} is not a configuration: sections with keys were expected.", 2)
    base = layer.pop("base", None)
    if base is None:
        return layer
    if len(above) > 5:
        raise ProstateError(f"{name_or_path}: the files named under `base` stand on each other.", 2)
    merged = OmegaConf.merge(read_layer(str(base), (*above, name_or_path)), layer)
    assert isinstance(merged, DictConfig)
    return merged


def load_config(config_file: str | Path = "", overrides: Sequence[str] = ()) -> DictConfig:
    """The complete, checked configuration.

    Args:
        config_file: path of a YAML file, or the name of a preset; empty: the published preset.
        overrides: `section.key=value`, the last one wins.

    Raises:
        ProstateError: unknown key (with the nearest known one), wrong type, contradiction, missing file, no
            architecture that there is.
    """
    layer = read_layer(config_file or "prostate_vitb14_mm-dino")
    bad = [text for text in overrides if "=" not in text]
    if bad:
        raise ProstateError(
            f"{bad[0]!r} is no override: write section.key=value, such as optim.epochs=50.", 2
        )
    try:
        written = OmegaConf.merge(layer, OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise _refusal(error) from error
    cfg = complete_config(written)
    try:
        refuse_unknown_architecture(cfg.student.arch)
    except ProstateError as error:
        if OmegaConf.select(written, "student.arch") is not None:
            raise
        # The published base file's own name is none of ours: a training needs the preset's, or another.
        raise ProstateError(
            f"No architecture was named, and the published base file's own, {cfg.student.arch}, is none of "
            f"those there are: {', '.join(ARCHITECTURES)}. Write student.arch=medical_vit_base, the "
            "published preset's, or another.",
            2,
        ) from error
    check(cfg)
    return cfg


def complete_config(partial: Any) -> DictConfig:
    """A full or partial configuration (OmegaConf, mapping) with the defaults under it; keys are checked."""
    layer = partial if isinstance(partial, DictConfig) else OmegaConf.create(partial)
    assert isinstance(layer, DictConfig)
    plain = _resolved(layer)
    _refuse_unknown_keys(plain)
    try:
        cfg = OmegaConf.merge(defaults(), plain)
        OmegaConf.set_readonly(cfg, False)
    except OmegaConfBaseException as error:
        raise ProstateError(
            f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}", 2
        ) from error
    assert isinstance(cfg, DictConfig)
    return cfg


def _resolved(layer: DictConfig) -> DictConfig:
    """The layer over plain defaults, each `${section.key}` replaced by that key's value."""
    try:
        merged = OmegaConf.merge(OmegaConf.to_container(defaults()), layer)
        whole = OmegaConf.create(_literally(OmegaConf.to_container(merged, resolve=True)))
    except OmegaConfBaseException as error:
        raise _refusal(error) from error
    assert isinstance(whole, DictConfig)
    return whole


def _refusal(error: OmegaConfBaseException) -> ProstateError:
    reason = str(error).splitlines()[0].rstrip(".")
    if isinstance(error, (InterpolationResolutionError, GrammarParseError)):
        reason += r"; ${section.key} means another key's value, and \${ is the text ${"
    return ProstateError(f"{error.full_key or 'configuration'}: {reason}.", 2)


def literal(text: str) -> str:
    """A text as a configuration holds it so that reading gives it back: a folder may be called `D${y}`."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _literally(value: Any) -> Any:
    """What was resolved, so that nothing in it is resolved again."""
    if isinstance(value, dict):
        return {name: _literally(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_literally(part) for part in value]
    return literal(value) if isinstance(value, str) else value


def _refuse_unknown_keys(layer: DictConfig) -> None:
    known = known_keys()
    sections = {name.rsplit(".", depth)[0] for name in known for depth in range(1, name.count(".") + 1)}
    for name in _leaves(layer):
        if name in known or name in sections:
            continue
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        if any(parent in known for parent in parents):
            raise ProstateError(f"{name}: {parents[0]} is a value, not a section.", 2)
        raise ProstateError(f"Unknown key {name}. {_nearest(name, known)}", 2)


def _nearest(name: str, known: Sequence[str]) -> str:
    leaf = name.rsplit(".", 1)[-1]
    by_leaf = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    near = by_leaf[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"The nearest known key is {near[0]}; `prostate-ssl config --explain {near[0]}` says what it does."


def check(cfg: DictConfig) -> None:
    """Refuse values that no training can run with.

    Raises:
        ProstateError: the key, its value and what it may be.
    """
    check_choices(cfg)
    for name, (least, most) in _RANGES.items():
        value = OmegaConf.select(cfg, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and least <= value <= most):
            bounds = f"a number of at least {least:g}" + ("" if most == _ANY else f" and at most {most:g}")
            raise ProstateError(f"{name} is {value!r}; it must be {bounds}.", 2)
    _check_crops(cfg)
    _check_contradictions(cfg)


def _check_crops(cfg: DictConfig) -> None:
    patch = cfg.student.patch_size
    for name in ("global_crops_size", "local_crops_size"):
        size = cfg.crops[name]
        if size % patch:
            lower, upper = size // patch * patch, -(-size // patch) * patch
            raise ProstateError(
                f"crops.{name} is {size}, no multiple of the patch size {patch}: use "
                + (f"{lower} or {upper}." if lower else f"{upper}."),
                2,
            )
    for name in ("global_crops_scale", "local_crops_scale"):
        low, high = _pair(cfg, f"crops.{name}")
        if not 0 < low <= high <= 1:
            raise ProstateError(
                f"crops.{name} is [{low}, {high}]; two shares of the area in (0, 1], rising.", 2
            )
    low, high = _pair(cfg, "crops.gamma_range")
    if not 0 < low <= high:
        raise ProstateError(f"crops.gamma_range is [{low}, {high}]; two positive exponents, rising.", 2)


def _pair(cfg: DictConfig, name: str) -> tuple[float, float]:
    value: ListConfig = OmegaConf.select(cfg, name)
    if len(value) != 2:
        raise ProstateError(f"{name} has {len(value)} values; two are needed, from – to.", 2)
    return value[0], value[1]


def _check_contradictions(cfg: DictConfig) -> None:
    low, high = _pair(cfg, "ibot.mask_ratio_min_max")
    rules = (
        (not 0 <= low <= high <= 1, f"ibot.mask_ratio_min_max is [{low}, {high}]: two shares in 0–1, rising"),
        (cfg.ibot.loss_weight > 0 and high <= 0, "ibot.loss_weight > 0 needs a mask ratio above 0"),
        (
            cfg.ibot.loss_weight > 0 and cfg.ibot.mask_sample_probability <= 0,
            "ibot.loss_weight > 0 needs ibot.mask_sample_probability above 0",
        ),
        (
            cfg.dino.loss_weight <= 0 and cfg.ibot.loss_weight <= 0,
            "dino.loss_weight and ibot.loss_weight are both 0: nothing would be learned",
        ),
        (
            cfg.train.img_size < cfg.student.patch_size,
            f"train.img_size {cfg.train.img_size} is smaller than a patch ({cfg.student.patch_size})",
        ),
        (
            not probes_are_configured(cfg)
            and cfg.evaluation.eval_period_iterations
            not in (0, defaults().evaluation.eval_period_iterations),
            "evaluation.eval_period_iterations is set, but evaluation.train_dataset_path and "
            "evaluation.val_dataset_path are not: name labelled cases, or set the period to 0",
        ),
        (
            not epoch_length_is_valid(cfg),
            "train.OFFICIAL_EPOCH_LENGTH must be a positive whole number or auto",
        ),
        (
            cfg.semi_supervised.loss_weight > 0 and cfg.dino.loss_weight <= 0,
            "semi_supervised.loss_weight > 0 needs the DINO head, so dino.loss_weight > 0",
        ),
    )
    for broken, message in rules:
        if broken:
            raise ProstateError(f"The configuration contradicts itself: {message}.", 2)


def probes_are_configured(cfg: DictConfig) -> bool:
    """Whether labelled cases are named for the probes during training. The published base file names none."""
    evaluation = cfg.evaluation
    return bool(
        evaluation.eval_period_iterations and evaluation.train_dataset_path and evaluation.val_dataset_path
    )


def epoch_length_is_valid(cfg: DictConfig) -> bool:
    """Whether `OFFICIAL_EPOCH_LENGTH` is a positive integer or `auto`."""
    value: object = cfg.train.OFFICIAL_EPOCH_LENGTH
    return value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def epoch_length(cfg: DictConfig, cases: int, world_size: int) -> int:
    """Iterations an epoch: the configured number, or ceil(cases / total batch)."""
    if cfg.train.OFFICIAL_EPOCH_LENGTH == "auto":
        batch: int = cfg.train.batch_size_per_gpu * world_size
        return max(1, math.ceil(cases / batch))
    return int(cfg.train.OFFICIAL_EPOCH_LENGTH)


def scaled_learning_rate(cfg: DictConfig, world_size: int) -> float:
    """base_lr after the scaling rule: × √(total batch / 1024), or as it is."""
    if cfg.optim.scaling_rule == "identity":
        return float(cfg.optim.base_lr)
    return float(cfg.optim.base_lr * math.sqrt(cfg.train.batch_size_per_gpu * world_size / 1024))


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write the configuration as YAML, atomically."""
    write_atomically(path, OmegaConf.to_yaml(cfg).encode())
