"""Pictures of what the patches know: PCA colours and CLS attention over the slices of a case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from prostate_ssl.data import ProstateDataset
from prostate_ssl.evaluation.backbone import Backbone
from prostate_ssl.evaluation.extract import choose_slices
from prostate_ssl.evaluation.features import model_present, model_side, slice_tokens
from prostate_ssl.files import write_figure


def _shown_slices(dataset: ProstateDataset, index: int, count: int) -> list[int]:
    slices = choose_slices(dataset, index, "gland")
    places = np.linspace(0, len(slices) - 1, min(count, len(slices))).round().astype(int)
    return [slices[i] for i in places]


def principal_colours(tokens: np.ndarray) -> np.ndarray:
    """First three principal components of (P, D) patch tokens as RGB in 0–1, (P, 3); 1st–99th percentile."""
    centred = tokens - tokens.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    scores = centred @ axes[:3].T
    low, high = np.percentile(scores, [1, 99], axis=0)
    colours: np.ndarray = np.clip((scores - low) / np.maximum(high - low, 1e-9), 0, 1)
    return colours


def pca_picture(backbone: Backbone, dataset: ProstateDataset, index: int, path: Path, count: int = 6) -> None:
    """Slices of one case: the first modality, and below it the PCA of its patch tokens over all slices.

    Args:
        backbone: the frozen network.
        dataset: the cases.
        index: which case.
        path: PNG to write.
        count: slices, spread over the gland.
    """
    side = model_side(backbone.model)
    slices = _shown_slices(dataset, index, count)
    samples = [dataset.sample(index, slice_index=z, size=side) for z in slices]
    images = torch.stack([s.image for s in samples])
    present = torch.stack([model_present(s.present, images.shape[1]) for s in samples])
    _, patches = slice_tokens(backbone.model, images, present)
    first = patches[:, 0].numpy()
    grid = side // backbone.model.patch_size
    colours = principal_colours(first.reshape(-1, first.shape[-1])).reshape(len(slices), grid, grid, 3)
    masks = [sample.mask.numpy() for sample in samples]
    rows = [("T2", [image[0].numpy() for image in images]), ("PCA of patch features", list(colours))]
    _draw(rows, slices, masks, f"{dataset.case_ids[index]}: patch features over the slices", path)


def attention_picture(
    backbone: Backbone, dataset: ProstateDataset, index: int, path: Path, count: int = 6
) -> None:
    """Slices of one case: each modality with the CLS token's attention in the last block, mean over heads.

    The tiles of one slice share a scale; a modality that the case lacks is masked, and its rows say «absent».
    """
    side = model_side(backbone.model)
    slices = _shown_slices(dataset, index, count)
    samples = [dataset.sample(index, slice_index=z, size=side) for z in slices]
    images = torch.stack([s.image for s in samples])
    present = torch.stack([model_present(s.present, images.shape[1]) for s in samples])
    with torch.no_grad():
        heads = backbone.model.last_attention(images.to(backbone.device), present.to(backbone.device))
    attention = heads.mean(1).cpu().numpy()
    brightest = attention.max((1, 2, 3), keepdims=True)  # of a slice: modalities can be compared in it
    rows = []
    for channel in range(images.shape[1]):
        name = (*backbone.model.mri_sequences, "mask")[channel]
        name += "" if bool(present[0, channel]) else " (absent)"
        rows.append((name, [image[channel].numpy() for image in images]))
        rows.append((f"attention: {name}", list((attention / brightest)[:, channel])))
    masks = [sample.mask.numpy() for sample in samples]
    scale = "one scale a slice: dark 0, bright its strongest"
    title = f"{dataset.case_ids[index]}: attention of the CLS token\n({scale})"
    _draw(rows, slices, masks, title, path)


def _draw(
    rows: list[tuple[str, list[np.ndarray]]],
    slices: list[int],
    masks: list[np.ndarray],
    title: str,
    path: Path,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(slices) + 0.6, 1.9 * len(rows) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(slices), squeeze=False)
    for row, (name, pictures) in enumerate(rows):
        for column, picture in enumerate(pictures):
            cell = axes[row][column]
            side = masks[column].shape[0]
            shade = "gray" if not name.startswith("attention") else "magma"
            scale = (None, None) if shade == "gray" else (0, 1)
            extent = (0, side, side, 0)
            cell.imshow(
                picture, cmap=shade, vmin=scale[0], vmax=scale[1], extent=extent, interpolation="nearest"
            )
            if masks[column].any():
                cell.contour(masks[column], levels=[0.5], colors="yellow", linewidths=0.6)
            cell.set_xticks([])
            cell.set_yticks([])
            if row == 0:
                cell.set_title(f"slice {slices[column]}", fontsize=8)
            if column == 0:
                cell.set_ylabel(name, fontsize=8)
    figure.suptitle(title, fontsize=10)
    write_figure(path, figure, dpi=110)
