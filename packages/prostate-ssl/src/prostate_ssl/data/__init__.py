"""From folders of NIfTI files to batches of crops on the training device."""

from prostate_ssl.augment.settings import AugmentationSettings
from prostate_ssl.data.dataset import EvaluationSample, ProstateDataset, make_dataset
from prostate_ssl.data.feed import Feed, build_feed
from prostate_ssl.data.layout import Case, discover_cases
from prostate_ssl.data.preparing import PreparedCase, prepare_case
from prostate_ssl.data.reading import CaseVolumes, read_case

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
