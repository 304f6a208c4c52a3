"""From the options that several verbs share to one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from prostate_ssl.config import load_config
from prostate_ssl.config.dataset_string import with_options
from prostate_ssl.errors import ProstateError


def configured(
    config_file: str, overrides: Sequence[str], *, output_dir: str = "", data: str = "", split_csv: str = ""
) -> DictConfig:
    """The checked configuration of a call.

    Raises:
        ProstateError: see `load_config`; `--data` that is no folder.
    """
    cfg = load_config(config_file, overrides)
    if output_dir:
        cfg.train.output_dir = output_dir
    cfg.train.output_dir = str(Path(cfg.train.output_dir).expanduser().absolute())
    if data:
        root = Path(data).expanduser().absolute()
        if not root.is_dir():
            raise ProstateError(f"--data {data}: there is no such folder.", 2)
        # The preset's list of patients belongs to the preset's root: without it, every folder counts.
        cfg.train.dataset_path = with_options(
            cfg.train.dataset_path, root=root, split_csv=split_csv or "none"
        )
    elif split_csv:
        cfg.train.dataset_path = with_options(cfg.train.dataset_path, split_csv=split_csv)
    return cfg


def run_config(run: Path) -> DictConfig:
    """The configuration that a run's folder holds.

    Raises:
        ProstateError: no such run.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise ProstateError(
            f"{run} is no run: it has no config.yaml. Give the --output-dir of `prostate-ssl train`.", 2
        )
    return load_config(path)
