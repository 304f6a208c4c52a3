"""Dataset strings: `ProstateSSL:split=TRAIN:root=/data:split_csv=split/train.csv:mri_sequences=a,b:…`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from prostate_ssl.config.dataset_string import dataset_name, dataset_options
from prostate_ssl.data.layout import REQUIRED_SEQUENCES
from prostate_ssl.errors import ProstateError

KINDS = ("ProstateSSL", "ProstateSupervised")
SPLITS = ("TRAIN", "VAL", "TEST")


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset string asks for.

    Attributes:
        kind: ProstateSSL, or ProstateSupervised (labels are read).
        split: TRAIN, VAL or TEST; random axes and slices apply to TRAIN alone.
        root: the data folder, as written (Windows drive letters included).
        split_csv: list of patients, or None for every folder of the root.
        mri_sequences: modalities, in the order in which the network sees them.
        random_axes: in training a random one of axial, coronal, sagittal.
        random_slices: in training a random slice with enough of the gland.
        append_label_mask: the mask is fed to the network as one more channel.
        percentage_labels: share (0–1) of cases that show their mask (ProstateSSL) or label (…Supervised).
        min_roi_voxels: mask voxels that a slice needs to count as showing the gland.
        prefer_computed_dwi: take a computed high-b image even where b ≥ 800 was acquired.
        seed: of the nested choice behind percentage_labels.
        spatial_size: side of an evaluation sample in pixels.
    """

    kind: str
    root: Path
    split: str = "TRAIN"
    split_csv: str | None = None
    mri_sequences: tuple[str, ...] = REQUIRED_SEQUENCES
    random_axes: bool = False
    random_slices: bool = False
    append_label_mask: bool = False
    percentage_labels: float = 1.0
    min_roi_voxels: int = 1
    prefer_computed_dwi: bool = False
    seed: int = 0
    spatial_size: int = 224


def _boolean(key: str, value: str) -> bool:
    if value.lower() in ("true", "false", "1", "0", "yes", "no"):
        return value.lower() in ("true", "1", "yes")
    raise ProstateError(f"In the dataset string, {key}={value} should be True or False.", exit_code=2)


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ProstateError(
            f"In the dataset string, {key}={value} should be a number.", exit_code=2
        ) from None


def _share(value: str) -> float:
    share = _number("percentage_labels", value)
    if not 0.0 <= share <= 1.0:
        raise ProstateError(f"percentage_labels={value} should lie between 0 and 1.", exit_code=2)
    return share


def _split(value: str) -> str:
    if value.upper() not in SPLITS:
        raise ProstateError(f"split={value} should be one of {', '.join(SPLITS)}.", exit_code=2)
    return value.upper()


def _sequences(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names or len(set(names)) != len(names):
        raise ProstateError(
            f"mri_sequences={value} should name each sequence once, with commas.", exit_code=2
        )
    return names


def parse_dataset_string(text: str) -> DatasetSpec:
    r"""Parse a dataset string; `root=C:\data` and `root=C:/data` stay whole.

    Raises:
        ProstateError: an unknown dataset, an unknown key (the nearest known one is named), a bad value.
    """
    kind = dataset_name(text)
    if kind not in KINDS:
        raise ProstateError(
            f"Unknown dataset '{kind}' in '{text}'. Known: {', '.join(KINDS)}; for example "
            "ProstateSSL:split=TRAIN:root=/data:mri_sequences=ax_t2wi,ax_adc,ax_dwi",
            exit_code=2,
        )
    known = [name for name in DatasetSpec.__dataclass_fields__ if name != "kind"]
    values: dict[str, object] = {}
    for key, value in dataset_options(text).items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ProstateError(
                f"Unknown key '{key}' in the dataset string.{hint} Known: {', '.join(known)}.", exit_code=2
            )
        if key == "root":
            values[key] = Path(value)
        elif key == "split":
            values[key] = _split(value)
        elif key == "split_csv":
            values[key] = value if value and value.lower() != "none" else None
        elif key == "mri_sequences":
            values[key] = _sequences(value)
        elif key == "percentage_labels":
            values[key] = _share(value)
        elif key in ("min_roi_voxels", "seed", "spatial_size"):
            values[key] = int(_number(key, value))
        else:
            values[key] = _boolean(key, value)
    if "root" not in values:
        raise ProstateError(f"The dataset string '{text}' names no root=FOLDER.", exit_code=2)
    return DatasetSpec(kind=kind, **values)  # type: ignore[arg-type]
