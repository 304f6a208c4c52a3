"""From the options that several verbs share to one configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from prostate_ssl.config import load_config
from prostate_ssl.config.dataset_string import with_options
from prostate_ssl.config.loading import literal
from prostate_ssl.errors import ProstateError
from prostate_ssl.files import absolute, write_json


def configured(
    config_file: str, overrides: Sequence[str], *, output_dir: str = "", data: str = "", split_csv: str = ""
) -> DictConfig:
    """The checked configuration of a call.

    Raises:
        ProstateError: see `load_config`; `--data` that is no folder.
    """
    cfg = load_config(config_file, overrides)
    cfg.train.output_dir = literal(str(absolute(output_dir or cfg.train.output_dir)))
    if data:
        root = absolute(data)
        if not root.is_dir():
            raise ProstateError(f"--data {data}: there is no such folder.", 2)
        # The preset's list of patients belongs to the preset's root: without it, every folder counts.
        chosen = with_options(cfg.train.dataset_path, root=root, split_csv=split_csv or "none")
        cfg.train.dataset_path = literal(chosen)
    elif split_csv:
        cfg.train.dataset_path = literal(with_options(cfg.train.dataset_path, split_csv=split_csv))
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


@contextmanager
def stage(run: Path, name: str, write: bool = True) -> Iterator[None]:
    """Note in the run's folder how long a stage took; a repeated stage replaces its time."""
    begun = time.perf_counter()
    yield
    if write and run.is_dir():
        note_stage(run, name, time.perf_counter() - begun)


def note_stage(run: Path, name: str, seconds: float, *, add: bool = False) -> None:
    """Write a stage's time; `add` adds to the time that stands there (a training in several calls)."""
    stages = read_stages(run)
    if add:
        seconds += sum(s["seconds"] for s in stages if s["name"] == name)
    stages = [s for s in stages if s["name"] != name]
    with suppress(PermissionError):  # somebody else's run: the time is not worth an error
        write_json(run / "stages.json", [*stages, {"name": name, "seconds": round(seconds, 2)}])


def read_stages(run: Path) -> list[dict[str, Any]]:
    """Names and seconds of the stages that a run has been through."""
    path = run / "stages.json"
    try:
        stages: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    except ValueError:  # damaged: times are no reason to stop
        return []
    return stages
