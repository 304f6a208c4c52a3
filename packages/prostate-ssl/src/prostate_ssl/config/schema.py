"""Every configuration key with its type, its default and what it means.

Names, spellings and defaults are those of the two published files: the base file gives the defaults
below, `train/prostate_vitb14_mm-dino.yaml` stands on top of it as the preset. Keys that the published
files lack say «ours».
"""

# ruff: noqa: RUF009 - `key` makes a dataclass field, with its explanation
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def key(default: Any, doc: str) -> Any:
    """A field with its explanation, which `prostate-ssl config --explain` prints."""
    if isinstance(default, (list, type)):
        factory = default if isinstance(default, type) else (lambda: list(default))
        return field(default_factory=factory, metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


@dataclass
class MixedPrecision:
    param_dtype: str = key("fp16", "Published; overridden to fp32. The key `precision` decides.")
    reduce_dtype: str = key(
        "fp16",
        "In what the student's gradients travel between GPUs (and, sharded, are added up): fp32 or bf16. "
        "Published as fp16, which is overridden to fp32.",
    )
    buffer_dtype: str = key("fp32", "Published; buffers are always fp32.")


@dataclass
class ModulePrecision:
    sharding_strategy: str = key(
        "SHARD_GRAD_OP",
        "On several GPUs: FULL_SHARD (least memory), SHARD_GRAD_OP (weights stay gathered between forward "
        "and backward) or NO_SHARD (replicas: every rank holds all weights, and updates a share of them).",
    )
    mixed_precision: MixedPrecision = key(MixedPrecision, "Published dtypes; see `precision`.")


@dataclass
class NetworkPrecision:
    backbone: ModulePrecision = key(ModulePrecision, "The vision transformer.")
    dino_head: ModulePrecision = key(ModulePrecision, "The head on CLS tokens.")
    ibot_head: ModulePrecision = key(ModulePrecision, "The head on patches, if ibot.separate_head.")


@dataclass
class ComputePrecision:
    grad_scaler: bool = key(True, "Published; there is no scaler in fp32 or bf16, so it has no effect.")
    teacher: NetworkPrecision = key(NetworkPrecision, "Sharding of the teacher.")
    student: NetworkPrecision = key(NetworkPrecision, "Sharding of the student.")


@dataclass
class Model:
    WEIGHTS: str = key("", "A checkpoint of ours (or the published code's) to start from, weights only.")


@dataclass
class Dino:
    loss_weight: float = key(1.0, "Weight of the DINO loss on CLS tokens.")
    head_n_prototypes: int = key(65536, "Prototypes of the DINO head.")
    head_bottleneck_dim: int = key(256, "Width of the layer before the prototypes.")
    head_nlayers: int = key(3, "Linear layers of the head.")
    head_hidden_dim: int = key(2048, "Width of the head's hidden layers.")
    koleo_loss_weight: float = key(0.1, "Weight of the KoLeo regulariser on the global crops' CLS tokens.")
    koleo_global: bool = key(False, "Ours: nearest neighbours over all GPUs, not within one (as published).")


@dataclass
class Ibot:
    loss_weight: float = key(1.0, "Weight of the iBOT loss on masked patches.")
    mask_sample_probability: float = key(0.5, "Share of the global crops that get block masks.")
    mask_ratio_min_max: list[float] = key(
        [0.1, 0.5], "Masked share of the patches in such a crop, from – to."
    )
    separate_head: bool = key(False, "A head of its own for patches; otherwise the DINO head serves both.")
    head_n_prototypes: int = key(65536, "Prototypes of the separate iBOT head.")
    head_bottleneck_dim: int = key(256, "As dino.head_bottleneck_dim, for the separate head.")
    head_nlayers: int = key(3, "As dino.head_nlayers, for the separate head.")
    head_hidden_dim: int = key(2048, "As dino.head_hidden_dim, for the separate head.")
    mask_per_channel: bool = key(False, "Every modality has its own mask; otherwise one mask for all.")
    mask_whole_modality: bool = key(
        True, "Ours: with mask_per_channel, one whole modality per crop is masked too (as published)."
    )


@dataclass
class SemiSupervised:
    loss_weight: float = key(0.0, "Weight of the cross-entropy of labelled cases; 0 turns it off.")
    label_smoothing: float = key(0.1, "Label smoothing of that cross-entropy.")
    temperature: float = key(0.1, "The prototype scores are divided by it.")


@dataclass
class Train:
    batch_size_per_gpu: int = key(64, "Cases per GPU and iteration.")
    dataset_path: str = key(
        "ProstateSSL:split=TRAIN:root=<PATH_TO_PROSTATE_DATASET>",
        "What to train on: Name:key=value:…, for example ProstateSSL:split=TRAIN:root=/data:"
        "split_csv=split/train.csv:mri_sequences=ax_t2wi,ax_adc,ax_dwi:random_axes=True:random_slices=True.",
    )
    output_dir: str = key(".", "Where checkpoints, metrics and logs go; --output-dir sets it.")
    saveckp_freq: int = key(20, "Epochs between checkpoints.")
    saveckp_iterations: int = key(0, "Ours: iterations between checkpoints; 0 uses saveckp_freq.")
    max_to_keep: int = key(3, "Ours: this many checkpoints are kept.")
    seed: int = key(0, "Seed of weights, samples, augmentation, masks and stochastic depth.")
    num_workers: int = key(10, "Threads that read cases and cut slices ahead of the step; 0 means one.")
    OFFICIAL_EPOCH_LENGTH: Any = key(1250, "Iterations an epoch; «auto» is ceil(cases / total batch).")
    cache_dataset: bool = key(True, "Use the cache in train.cache_dir, if one is named.")
    cache_dir: str = key(
        "", "Ours: folder of `prostate-ssl cache`; empty: cases are decoded from their files."
    )
    max_bad_share: float = key(
        0.2, "Ours: unusable cases are dropped and named; more than this share of all stops the run."
    )
    centering: str = key("centering", "Teacher centring: centering (running mean) or sinkhorn_knopp.")
    img_size: int = key(518, "Image size that fixes the number of positional encodings.")
    percentage_labels: float = key(1.0, "ProstateSSL: share of cases whose mask is shown (0–1).")
    deterministic: bool = key(False, "Ours: bit-for-bit repeatable kernels on GPUs, slower.")
    compile: str = key(
        "auto", "Ours: torch.compile of the blocks: auto (on a GPU with a C compiler), true, false."
    )
    cuda_graph: str = key(
        "auto",
        "Ours: replay the passes of a step as one CUDA graph: auto (on a GPU, unless sharded), true, false.",
    )
    attention: str = key(
        "auto",
        "Ours: attention kernel: auto, sdpa (PyTorch's fused), flex (FlexAttention), tf32 (fast fp32).",
    )
    activation_checkpointing: bool = key(
        False, "Ours: recompute blocks in the backward pass: less memory, slower."
    )
    log_every: int = key(10, "Ours: iterations between log lines.")


@dataclass
class Student:
    arch: str = key(
        "vit_large", "medical_vit_tiny, _small, _base, _large or _giant2 (glioma_vit_* is the same)."
    )
    patch_size: int = key(16, "Patch size, pixels; crop sizes are multiples of it.")
    drop_path_rate: float = key(0.3, "Probability that stochastic depth drops a branch.")
    layerscale: Any = key(1.0e-05, "Initial LayerScale; 0 or null turns it off.")
    drop_path_uniform: bool = key(True, "The same rate in all blocks; otherwise rising from 0 to the rate.")
    pretrained_weights: str = key("", "A DINOv2 checkpoint (its own or Hugging Face's layout) to start from.")
    ffn_layer: str = key("mlp", "mlp or swiglu.")
    block_chunks: int = key(0, "Published FSDP grouping; accepted, has no effect: every block is a unit.")
    qkv_bias: bool = key(True, "Bias of the q, k, v projection.")
    proj_bias: bool = key(True, "Bias of the attention's output projection.")
    ffn_bias: bool = key(True, "Bias of the FFN layers.")
    use_mri_seq_embed: bool = key(False, "Add a learned unit-norm embedding of the modality to its patches.")
    img_wise_pos_embed: bool = key(True, "Positions per modality; False stacks the modalities in space.")
    num_register_tokens: int = key(0, "DINOv2's: register tokens after the CLS token.")
    interpolate_antialias: bool = key(
        False, "DINOv2's: antialias positions that are interpolated (True in its models with registers)."
    )
    interpolate_offset: float = key(
        0.1, "DINOv2's: added to the grid's size when positions are interpolated (0 with registers)."
    )


@dataclass
class Teacher:
    momentum_teacher: float = key(0.992, "EMA momentum at the start.")
    final_momentum_teacher: float = key(1.0, "EMA momentum at the end (half a cosine).")
    warmup_teacher_temp: float = key(0.04, "Teacher temperature at the start.")
    teacher_temp: float = key(0.07, "Teacher temperature after its warm-up.")
    warmup_teacher_temp_epochs: int = key(30, "Epochs of that warm-up (linear).")
    init_with_student_weights: bool = key(False, "The teacher starts as a copy of the student.")


@dataclass
class Optim:
    epochs: int = key(100, "Length of the training.")
    weight_decay: float = key(0.04, "Weight decay at the start.")
    weight_decay_end: float = key(0.4, "Weight decay at the end (half a cosine).")
    base_lr: float = key(0.004, "Learning rate for a batch of 1024, before the scaling rule.")
    lr: float = key(0.0, "Set by the scaling rule; what is written here has no effect.")
    warmup_epochs: int = key(10, "Linear warm-up from 0.")
    min_lr: float = key(1.0e-06, "Learning rate at the end.")
    clip_grad: Any = key(3.0, "Largest gradient norm of each submodule; 0 or null: no clipping.")
    freeze_last_layer_epochs: int = key(1, "Epochs in which the prototypes stay as they are.")
    freeze_backbone_epochs: int = key(0, "Epochs in which only the heads learn.")
    scaling_rule: str = key("sqrt_wrt_1024", "sqrt_wrt_1024 (× √(total batch / 1024)) or identity.")
    patch_embed_lr_mult: float = key(0.2, "Factor on the learning rate of the patch embedding.")
    layerwise_decay: float = key(0.9, "Factor on the learning rate per block, from the top downwards.")
    adamw_beta1: float = key(0.9, "AdamW's β₁.")
    adamw_beta2: float = key(0.999, "AdamW's β₂.")


@dataclass
class Crops:
    global_crops_scale: list[float] = key([0.32, 1.0], "Area of the global crops, as a share of the slice.")
    local_crops_number: int = key(8, "Local crops per case.")
    local_crops_scale: list[float] = key([0.05, 0.32], "Area of the local crops, as a share of the slice.")
    global_crops_size: int = key(224, "Side of the global crops, pixels.")
    local_crops_size: int = key(96, "Side of the local crops, pixels.")
    intensity_aug: Any = key(
        "color_jittering", "rc (random convolution), color_jittering, bspline, histogram or none."
    )
    bias_field: float = key(
        0.0, "Ours: strength of a random smooth gain (σ of its logarithm), one for each crop and modality."
    )
    max_blur_radius: float = key(1, "Largest σ of the Gaussian blur, pixels.")
    gamma_range: list[float] = key([0.75, 1.5], "Range of the gamma augmentation.")
    crop_from_tumor_foreground: bool = key(False, "Crops favour the gland, where a mask shows it.")
    min_roi_voxels: int = key(1, "Ours: mask voxels that a slice needs to count as showing the gland.")
    resize_before_crop: bool = key(
        False, "Ours: percentiles per slice and a resize before the crop, as published."
    )


@dataclass
class Evaluation:
    eval_period_iterations: int = key(12500, "Iterations between evaluations; 0 = never.")
    train_dataset_path: str = key("", "Labelled cases that the probe learns from (ProstateSupervised:…).")
    val_dataset_path: str = key("", "Labelled cases that it is judged on.")
    test_dataset_path: str = key("", "Labelled cases for `prostate-ssl evaluate --test`.")
    metric_types: list[str] = key(
        ["mcc"],
        "mcc, accuracy, f1, auc, mean_per_class_accuracy; the first decides which teacher is best.",
    )


@dataclass
class Config:
    """The whole configuration."""

    MODEL: Model = key(Model, "Weights to start from.")
    precision: str = key("fp32", "Ours: fp32 (TF32 products on GPUs) or bf16 (autocast).")
    compute_precision: ComputePrecision = key(ComputePrecision, "Published precision and sharding.")
    dino: Dino = key(Dino, "DINO on CLS tokens, and KoLeo.")
    ibot: Ibot = key(Ibot, "iBOT on masked patches.")
    semi_supervised: SemiSupervised = key(SemiSupervised, "Cross-entropy on labelled cases.")
    train: Train = key(Train, "Data, batch, seed, checkpoints.")
    student: Student = key(Student, "The network.")
    teacher: Teacher = key(Teacher, "Its moving average.")
    optim: Optim = key(Optim, "Optimiser and schedules.")
    crops: Crops = key(Crops, "Crops and augmentation.")
    evaluation: Evaluation = key(Evaluation, "Probes during training.")
