"""From folders of NIfTI files to batches of crops on the training device.

What needs torch is imported when it is first asked for: importing and checking need no torch, and each of
their processes would wait seconds for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prostate_ssl.data.layout import Case, discover_cases
from prostate_ssl.data.reading import CaseVolumes, read_case

if TYPE_CHECKING:
    from prostate_ssl.augment.settings import AugmentationSettings
    from prostate_ssl.data.dataset import EvaluationSample, ProstateDataset, make_dataset
    from prostate_ssl.data.feed import Feed, build_feed
    from prostate_ssl.data.preparing import PreparedCase, prepare_case

__all__ = [
    "AugmentationSettings",
    "Case",
    "CaseVolumes",
    "EvaluationSample",
    "Feed",
    "PreparedCase",
    "ProstateDataset",
    "build_feed",
    "discover_cases",
    "make_dataset",
    "prepare_case",
    "read_case",
]

_HOMES = {
    "AugmentationSettings": "prostate_ssl.augment.settings",
    "EvaluationSample": "prostate_ssl.data.dataset",
    "ProstateDataset": "prostate_ssl.data.dataset",
    "make_dataset": "prostate_ssl.data.dataset",
    "Feed": "prostate_ssl.data.feed",
    "build_feed": "prostate_ssl.data.feed",
    "PreparedCase": "prostate_ssl.data.preparing",
    "prepare_case": "prostate_ssl.data.preparing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
