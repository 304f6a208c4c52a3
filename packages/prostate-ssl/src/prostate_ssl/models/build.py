"""Networks from a configuration."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from prostate_ssl.config import choices, complete_config
from prostate_ssl.config.dataset_string import dataset_options
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer, VitShape

_SIZES = {
    "tiny": VitShape(192, 4, 3),
    "small": VitShape(384, 12, 6),
    "base": VitShape(768, 12, 12),
    "large": VitShape(1024, 24, 16),
    "giant2": VitShape(1536, 40, 24),
}
ARCHITECTURES = {name: _SIZES[name.rsplit("_", 1)[1]] for name in choices.ARCHITECTURES}


def model_modalities(cfg: DictConfig) -> tuple[str, ...]:
    """Names of the channels that reach the model: the sequences, and the mask if it is asked for."""
    options = dataset_options(cfg.train.dataset_path)
    names = [name for name in options.get("mri_sequences", "ax_t2wi,ax_adc,ax_dwi").split(",") if name]
    if options.get("append_label_mask", "false").lower() == "true" and "seg" not in names:
        names.append("seg")
    return tuple(names)


def vit_shape(arch: str) -> VitShape:
    """Width, depth and heads of `student.arch`; the published suffix `_memeff` means nothing here.

    Raises:
        ProstateError: no such architecture.
    """
    choices.refuse_unknown_architecture(arch)
    return ARCHITECTURES[arch.removesuffix("_memeff")]


def build_backbone(cfg: DictConfig) -> MedicalVisionTransformer:
    """The untrained backbone that a complete configuration describes."""
    student = cfg.student
    return MedicalVisionTransformer(
        vit_shape(student.arch),
        patch_size=student.patch_size,
        img_size=cfg.train.img_size,
        mri_sequences=model_modalities(cfg),
        use_mri_seq_embed=student.use_mri_seq_embed,
        img_wise_pos_embed=student.img_wise_pos_embed,
        ffn_layer=student.ffn_layer,
        layerscale=student.layerscale,
        qkv_bias=student.qkv_bias,
        proj_bias=student.proj_bias,
        ffn_bias=student.ffn_bias,
        num_register_tokens=student.num_register_tokens,
        interpolate_antialias=student.interpolate_antialias,
        interpolate_offset=student.interpolate_offset,
    )


def build_model_from_cfg(cfg: Any, only_teacher: bool = False) -> Any:
    """The published entry point.

    Args:
        cfg: a configuration (OmegaConf or mapping), complete or partial; what is missing has its default.
        only_teacher: return the one network (with `embed_dim`), ready for `load_state_dict`.

    Returns:
        The backbone; or student, teacher and the embedding width.
    """
    complete = complete_config(cfg)
    if only_teacher:
        return build_backbone(complete)
    student, teacher = build_backbone(complete), build_backbone(complete)
    return student, teacher, student.embed_dim
