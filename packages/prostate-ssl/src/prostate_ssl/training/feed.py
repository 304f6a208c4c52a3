"""What the training asks the data room for, from the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from prostate_ssl.batch import CropBatch
from prostate_ssl.config.dataset_string import dataset_name, dataset_options, with_options
from prostate_ssl.config.loading import epoch_length
from prostate_ssl.data import AugmentationSettings, Feed, ProstateDataset, build_feed, make_dataset
from prostate_ssl.errors import ProstateError
from prostate_ssl.training.session import Session

PLACEHOLDER = "<PATH_TO_PROSTATE_DATASET>"


@dataclass(frozen=True)
class TrainingData:
    """The cases of a run, and how they come.

    Attributes:
        dataset: cases and labels.
        feed: batches of this rank.
        global_batch: cases of all ranks in an iteration.
        positions: this rank's places in the global batch.
        epoch_length: iterations an epoch.
    """

    dataset: ProstateDataset
    feed: Feed
    global_batch: int
    positions: slice
    epoch_length: int

    @property
    def case_names(self) -> list[str]:
        """Case IDs in the order of `CropBatch.case_index`."""
        return self.dataset.case_ids

    def batches(self, first: int) -> Iterator[CropBatch]:
        """Batches from iteration `first` on."""
        return self.feed.batches(first)

    def labels(self, case_index: torch.Tensor) -> torch.Tensor:
        """Classes of the cases of a batch, −1 where unknown; (B,) int64 on the batch's device."""
        known = np.where(self.dataset.label_used, self.dataset.labels, -1)
        return torch.from_numpy(known).to(case_index.device)[case_index]


def training_dataset_string(cfg: DictConfig) -> str:
    """`train.dataset_path` with the options that other keys of the configuration add to it.

    Raises:
        ProstateError: the placeholder of the preset is still in it; not a training set of ours.
    """
    text: str = cfg.train.dataset_path
    if PLACEHOLDER in text:
        raise ProstateError(
            f"train.dataset_path still has the placeholder {PLACEHOLDER}. Say where the cases are: "
            "prostate-ssl train … --data FOLDER, or train.dataset_path=ProstateSSL:split=TRAIN:root=FOLDER:…",
            2,
        )
    options = dataset_options(text)
    if dataset_name(text) == "ProstateSSL" and "percentage_labels" not in options:
        text = with_options(text, percentage_labels=cfg.train.percentage_labels)
    if "min_roi_voxels" not in options:
        text = with_options(text, min_roi_voxels=cfg.crops.min_roi_voxels)
    return text


def augmentation_settings(cfg: DictConfig, append_label_mask: bool) -> AugmentationSettings:
    """The crop and mask keys as the data room takes them."""
    crops, ibot = cfg.crops, cfg.ibot
    return AugmentationSettings(
        global_crops_size=crops.global_crops_size,
        local_crops_size=crops.local_crops_size,
        local_crops_number=crops.local_crops_number,
        global_crops_scale=tuple(crops.global_crops_scale),
        local_crops_scale=tuple(crops.local_crops_scale),
        intensity_aug=crops.intensity_aug or "none",
        bias_field=crops.bias_field,
        max_blur_radius=crops.max_blur_radius,
        gamma_range=tuple(crops.gamma_range),
        crop_from_tumor_foreground=crops.crop_from_tumor_foreground,
        append_label_mask=append_label_mask,
        resize_before_crop=crops.resize_before_crop,
        patch_size=cfg.student.patch_size,
        mask_sample_probability=ibot.mask_sample_probability,
        mask_ratio_min_max=tuple(ibot.mask_ratio_min_max),
        mask_per_channel=ibot.mask_per_channel,
        mask_whole_modality=ibot.mask_whole_modality,
    )


def open_training_data(cfg: DictConfig, session: Session) -> TrainingData:
    """The dataset and this rank's feed.

    Raises:
        ProstateError: no data, a bad dataset string, a split with unknown IDs.
    """
    dataset = make_dataset(dataset_str=training_dataset_string(cfg))
    if cfg.semi_supervised.loss_weight > 0:
        _check_labels(dataset, cfg.dino.head_n_prototypes)
    batch: int = cfg.train.batch_size_per_gpu
    feed = build_feed(
        dataset,
        augmentation_settings(cfg, dataset.spec.append_label_mask),
        batch,
        cfg.train.seed,
        device=session.device,
        rank=session.rank,
        world_size=session.world_size,
        num_workers=cfg.train.num_workers,
        cache=Path(cfg.train.cache_dir) if cfg.train.cache_dir and cfg.train.cache_dataset else None,
        max_bad_share=cfg.train.max_bad_share,
    )
    return TrainingData(
        dataset,
        feed,
        batch * session.world_size,
        slice(session.rank * batch, (session.rank + 1) * batch),
        epoch_length(cfg, len(dataset), session.world_size),
    )


def _check_labels(dataset: ProstateDataset, classes: int) -> None:
    dataset.require_labels()
    used = dataset.labels[dataset.label_used & (dataset.labels >= 0)]
    if not len(used):
        raise ProstateError(
            "semi_supervised.loss_weight is above 0, but no case of train.dataset_path has a label: name a "
            "list with a label column (split_csv=…), or set it to 0.",
            2,
        )
    if used.min() == used.max():
        raise ProstateError(
            f"All {len(used)} labelled cases of train.dataset_path are of class {used.max()}: "
            "semi_supervised.loss_weight above 0 needs two classes at least.",
            2,
        )
    if used.max() >= classes:
        raise ProstateError(
            f"The label {used.max()} has no prototype: dino.head_n_prototypes is {classes}, and "
            "semi_supervised.loss_weight above 0 gives each class one.",
            2,
        )
