"""What travels from the data room to the training room: one batch of crops, ready for the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CropBatch:
    """Augmented, normalised crops of B cases with M modalities, on the training device.

    Crops are crop-major: rows 0…B-1 are the first crop of every case, rows B…2B-1 the second.

    Attributes:
        global_crops: (G*B, M, S, S) float32, G = 2, S = 224 as published.
        local_crops: (L*B, M, s, s) float32, L = 8, s = 112 as published. With `append_label_mask` both
            kinds of crops have M + 1 channels, the last the gland mask (0 or 1).
        present: (B, M) bool, False where the case lacks the modality (its pixels are zeros).
        masks: (G*B, M, N) bool, True where iBOT masks the patch; N = (S / patch)**2, row-major.
            Without `mask_per_channel` the M rows are equal. Always False where a modality is absent.
        case_index: (B,) int64, position of each case in the dataset's list of cases.
    """

    global_crops: torch.Tensor
    local_crops: torch.Tensor
    present: torch.Tensor
    masks: torch.Tensor
    case_index: torch.Tensor
