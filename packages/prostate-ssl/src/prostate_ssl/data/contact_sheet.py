"""What the network sees of one case: every crop of every modality, with the iBOT masks drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prostate_ssl.batch import CropBatch
from prostate_ssl.files import write_figure

GREY_RANGE = (-2.05, 2.5)
"""Normalised grey values of black and white: (0 - 0.45) / 0.22 and (1 - 0.45) / 0.22."""


def draw_contact_sheet(
    batch: CropBatch, row: int, modalities: tuple[str, ...], title: str, patch_size: int, path: Path
) -> None:
    """Draw the crops of one case of a batch; rows are modalities, columns crops.

    Args:
        batch: on any device, with the gland mask as last channel: its outline is drawn in yellow.
        row: which case of the batch.
        modalities: names of the first channels.
        title: above the picture.
        patch_size: side of a patch in pixels; masked patches are tinted red.
        path: the picture; its suffix names the format.
    """
    cases = batch.case_index.shape[0]
    crops = [*batch.global_crops[row::cases].cpu().numpy(), *batch.local_crops[row::cases].cpu().numpy()]
    globals_ = batch.global_crops.shape[0] // cases
    masks = batch.masks[row::cases].cpu().numpy()
    widths = [2.0] * globals_ + [1.2] * (len(crops) - globals_)
    figure = Figure(figsize=(sum(widths) * 1.05, len(modalities) * 2.1 + 0.6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(modalities), len(crops), width_ratios=widths, squeeze=False)
    for m, name in enumerate(modalities):
        for c, crop in enumerate(crops):
            axis = axes[m, c]
            # Air is exactly zero after normalisation (as published); it is drawn black.
            image = np.where(crop[m] == 0, GREY_RANGE[0], crop[m])
            axis.imshow(image, cmap="gray", vmin=GREY_RANGE[0], vmax=GREY_RANGE[1])
            if c < globals_:
                side = crop.shape[-1] // patch_size
                tint = np.kron(masks[c, m].reshape(side, side), np.ones((patch_size, patch_size)))
                axis.imshow(np.dstack([tint, 0 * tint, 0 * tint, 0.45 * tint]))
            gland = crop[len(modalities)]
            if gland.any() and not gland.all():
                axis.contour(gland, levels=[0.5], colors="gold", linewidths=0.8)
            axis.set_xticks([])
            axis.set_yticks([])
            if m == 0:
                axis.set_title(f"global {c + 1}" if c < globals_ else f"local {c - globals_ + 1}", fontsize=8)
            if c == 0:
                absent = "" if bool(batch.present[row, m]) else " (absent)"
                axis.set_ylabel(name + absent, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    write_figure(path, figure, dpi=100)
