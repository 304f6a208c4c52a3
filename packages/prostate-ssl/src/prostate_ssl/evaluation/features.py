"""Features of cases: one CLS vector and the patch tokens of each slice that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from prostate_ssl.data import ProstateDataset
from prostate_ssl.data.dataset import EvaluationSample
from prostate_ssl.errors import ProstateError, UnreadableVolumeError
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer

log = logging.getLogger("prostate_ssl")


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

    def columns(self, part: slice) -> FeatureTable:
        """Some of the features, of all cases."""
        return replace(self, vectors=self.vectors[:, part])

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


@dataclass(frozen=True)
class Extractor:
    """Evaluation slices → vectors.

    Attributes:
        side: pixels a side of the slices that it wants; None: as the dataset string says.
        vectors: what it makes of B samples, (B, D) float32.
        parts: columns of the vectors that are features by themselves, by name.
    """

    side: int | None
    vectors: Callable[[Sequence[EvaluationSample]], np.ndarray]
    parts: Mapping[str, slice] = field(default_factory=dict)


def network_features(model: MedicalVisionTransformer, kept: Sequence[int] | None = None) -> Extractor:
    """CLS token and mean patch token side by side: 2·D numbers a case.

    Args:
        model: frozen, in evaluation mode.
        kept: channels that are shown to the model; the others are left out. Default all.
    """
    names = None if kept is None else [model.mri_sequences[k] for k in kept]

    def vectors(samples: Sequence[EvaluationSample]) -> np.ndarray:
        images = torch.stack([sample.image for sample in samples])
        present = torch.stack([model_present(s.present, images.shape[1]) for s in samples])
        if kept is not None:
            images, present = images[:, list(kept)], present[:, list(kept)]
        cls, patches = slice_tokens(model, images, present, names)
        return torch.cat([cls, patches.mean((1, 2))], dim=1).numpy()

    parts = {"CLS token": slice(0, model.embed_dim), "mean patch token": slice(model.embed_dim, None)}
    return Extractor(model_side(model), vectors, parts)


def histogram_features(bins: int = 32) -> Extractor:
    """What intensities alone say: a histogram per modality."""

    def vectors(samples: Sequence[EvaluationSample]) -> np.ndarray:
        counts = [
            [np.histogram(channel.numpy(), bins=bins, range=(-2.1, 2.6))[0] for channel in sample.image]
            for sample in samples
        ]
        pixels = samples[0].image[0].numel()
        return (np.array(counts).reshape(len(samples), -1) / pixels).astype(np.float32)

    return Extractor(None, vectors)


def feature_tables(
    dataset: ProstateDataset,
    extractors: Mapping[str, Extractor],
    indices: Iterable[int] | None = None,
    *,
    batch_size: int = 16,
) -> dict[str, FeatureTable]:
    """Several features of the same cases in one pass: reading and preparing a case costs most.

    Args:
        dataset: the cases; of each its evaluation slice is taken.
        extractors: by name.
        indices: which cases; default all.
        batch_size: slices at once.

    Returns:
        One table a name, with equal rows; cases that cannot be used are named in the log and have none.

    Raises:
        ProstateError: no case can be used.
    """
    chosen = list(range(len(dataset)) if indices is None else indices)
    sides = {extractor.side for extractor in extractors.values()}
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in extractors}
    seen: list[EvaluationSample] = []
    for start in range(0, len(chosen), batch_size):
        batch = chosen[start : start + batch_size]
        samples = _usable(dataset, batch, sides)
        if not samples:
            continue
        for name, extractor in extractors.items():
            vectors[name].append(extractor.vectors([of_case[extractor.side] for of_case in samples]))
        seen += [next(iter(of_case.values())) for of_case in samples]
    if chosen and not seen:
        raise ProstateError(
            f"None of the {len(chosen)} cases to evaluate can be used. Look at them with `check`."
        )
    case_ids, labels = tuple(sample.case_id for sample in seen), [sample.label for sample in seen]
    known = np.array(labels, np.int64)
    return {
        name: FeatureTable(case_ids, known, np.concatenate(parts) if parts else np.zeros((0, 0), np.float32))
        for name, parts in vectors.items()
    }


def labelled_count(tables: Mapping[str, FeatureTable]) -> int:
    """Cases with a label among those that could be read; the rows of all tables are the same."""
    return len(next(iter(tables.values())).labelled().case_ids)


def _usable(
    dataset: ProstateDataset, indices: Sequence[int], sides: set[int | None]
) -> list[dict[int | None, EvaluationSample]]:
    """Side → sample of every case that can be read: one that turned bad does not end a training."""

    def of_case(index: int) -> dict[int | None, EvaluationSample] | None:
        try:
            # All sides of a case in turn: the dataset keeps only the last few prepared cases.
            return {side: dataset.sample(index, size=side) for side in sides}
        except UnreadableVolumeError as error:
            log.warning("evaluation: case %s left out: %s", dataset.case_ids[index], error.message)
            return None

    return [samples for samples in map(of_case, indices) if samples]


def case_vectors(
    model: MedicalVisionTransformer, dataset: ProstateDataset, *, batch_size: int = 16
) -> FeatureTable:
    """`network_features` of all cases of a dataset."""
    return feature_tables(dataset, {"network": network_features(model)}, batch_size=batch_size)["network"]


def model_side(model: MedicalVisionTransformer) -> int:
    """Side of evaluation slices in pixels: the model's own, at most the published 224."""
    side = min(model.img_size, 224)
    return side // model.patch_size * model.patch_size
