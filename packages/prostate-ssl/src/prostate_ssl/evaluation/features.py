"""Features of cases: one CLS vector and the patch tokens of each slice that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prostate_ssl.data import ProstateDataset
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer


@dataclass(frozen=True)
class FeatureTable:
    """Features of N cases.

    Attributes:
        case_ids: N names.
        labels: (N,) int64, −1 where unknown.
        vectors: (N, D) float32.
    """

    case_ids: tuple[str, ...]
    labels: np.ndarray
    vectors: np.ndarray

    def labelled(self) -> FeatureTable:
        """Only the cases whose label is known."""
        rows = np.flatnonzero(self.labels >= 0)
        return FeatureTable(tuple(self.case_ids[i] for i in rows), self.labels[rows], self.vectors[rows])


@torch.no_grad()
def slice_tokens(
    model: MedicalVisionTransformer,
    images: torch.Tensor,
    present: torch.Tensor,
    modalities: Sequence[str] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """CLS (B, D) and patch tokens (B, M, N, D) of slices (B, M, H, W), float32, on the CPU."""
    device = next(model.parameters()).device
    tokens = model.forward_features(images.to(device), present=present.to(device), modalities=modalities)
    patches = tokens["x_norm_patchtokens"].unflatten(1, (images.shape[1], -1))
    return tokens["x_norm_clstoken"].float().cpu(), patches.float().cpu()


def model_present(present: torch.Tensor, channels: int) -> torch.Tensor:
    """Presence of the channels: a mask that is fed as one more channel is always there."""
    return torch.cat([present, torch.ones(channels - len(present), dtype=torch.bool)])


def case_vectors(
    model: MedicalVisionTransformer,
    dataset: ProstateDataset,
    indices: Iterable[int] | None = None,
    *,
    batch_size: int = 16,
    kept: Sequence[int] | None = None,
) -> FeatureTable:
    """One vector per case: CLS token and mean patch token of its evaluation slice, side by side.

    Args:
        model: frozen, in evaluation mode.
        dataset: the cases.
        indices: which; default all.
        batch_size: slices at once.
        kept: channels that are shown to the model; the others are left out. Default all.

    Returns:
        Vectors of 2·D numbers.
    """
    chosen = list(range(len(dataset)) if indices is None else indices)
    vectors, labels = [], []
    for start in range(0, len(chosen), batch_size):
        samples = [dataset.sample(i, size=model_side(model)) for i in chosen[start : start + batch_size]]
        images = torch.stack([sample.image for sample in samples])
        present = torch.stack([model_present(s.present, images.shape[1]) for s in samples])
        names = None
        if kept is not None:
            images, present = images[:, list(kept)], present[:, list(kept)]
            names = [model.mri_sequences[k] for k in kept]
        cls, patches = slice_tokens(model, images, present, names)
        vectors.append(torch.cat([cls, patches.mean((1, 2))], dim=1))
        labels += [sample.label for sample in samples]
    width = 2 * model.embed_dim
    table = torch.cat(vectors).numpy() if vectors else np.zeros((0, width), np.float32)
    return FeatureTable(tuple(dataset.case_ids[i] for i in chosen), np.array(labels, np.int64), table)


def model_side(model: MedicalVisionTransformer) -> int:
    """Side of evaluation slices in pixels: the model's own, at most the published 224."""
    side = min(model.img_size, 224)
    return side // model.patch_size * model.patch_size


def histogram_vectors(dataset: ProstateDataset, bins: int = 32) -> FeatureTable:
    """What intensities alone say: a histogram per modality of each case's evaluation slice."""
    vectors, labels = [], []
    for index in range(len(dataset)):
        sample = dataset.sample(index)
        counts = [np.histogram(channel.numpy(), bins=bins, range=(-2.1, 2.6))[0] for channel in sample.image]
        vectors.append(np.concatenate(counts) / sample.image[0].numel())
        labels.append(sample.label)
    return FeatureTable(tuple(dataset.case_ids), np.array(labels, np.int64), np.array(vectors, np.float32))
