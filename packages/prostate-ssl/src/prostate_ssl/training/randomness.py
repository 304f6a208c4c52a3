"""Random numbers as functions of the iteration: nothing to save, nothing to lose on resuming."""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(*keys: object) -> torch.Generator:
    """A CPU generator whose stream depends on the keys alone (seed, iteration, purpose …)."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def drop_path_scales(
    rates: list[float], crops: int, global_batch: int, positions: slice, keys: tuple[object, ...]
) -> torch.Tensor | None:
    """Stochastic-depth factors (Huang et al. 2016) of the crops of this rank.

    They are drawn for the whole global batch, so that a case gets the same factors on whatever rank
    it falls.

    Args:
        rates: probability of dropping a branch, one per block.
        crops: crops per case.
        global_batch: cases of all ranks.
        positions: this rank's places in the global batch.
        keys: what the numbers depend on: seed, iteration, kind of crop.

    Returns:
        (depth, 2, crops · B) float32 on the CPU: 0 with probability p, else 1/(1−p). None if all rates are 0.
    """
    if not any(rates):
        return None
    drawn = torch.rand(len(rates), 2, crops, global_batch, generator=keyed_generator("drop-path", *keys))
    keep = 1 - torch.tensor(rates).view(-1, 1, 1, 1)
    return ((drawn < keep) / keep)[..., positions].flatten(2)
