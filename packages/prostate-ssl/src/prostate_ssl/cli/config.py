"""`prostate-ssl config`: what keys mean, what to set them to, which presets there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value …", show_default=False)
    ] = None,
    explain: Annotated[str, typer.Option("--explain", help="A key or section.")] = "",
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Settings by rule of thumb; needs --data.")
    ] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of cases.")] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1)] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Batch per GPU.")] = 8,
    config_file: Annotated[str, typer.Option("--config-file", help="YAML file or preset.")] = "",
    presets: Annotated[bool, typer.Option("--presets", help="List the presets with their memory.")] = False,
) -> int:
    """Print the complete configuration, explain a key, or suggest settings for a folder of cases."""
    from omegaconf import OmegaConf

    from prostate_ssl.config import load_config, preset_names
    from prostate_ssl.config.loading import preset_summary
    from prostate_ssl.data.dataset_string import parse_dataset_string
    from prostate_ssl.errors import ProstateError

    if explain:
        from prostate_ssl.config.explain import explain_key

        print(explain_key(explain))
    elif suggest:
        from prostate_ssl.config.explain import suggest as advise
        from prostate_ssl.data import discover_cases

        if data is None:
            raise ProstateError("--suggest needs --data FOLDER.", 2)
        settings, reasons = advise(len(discover_cases(data)), gpus, batch)
        print("".join(f"# {reason}\n" for reason in reasons) + OmegaConf.to_yaml(settings), end="")
    elif presets:
        for name in preset_names():
            print(f"{name:24} {preset_summary(name)}")
    else:
        cfg = load_config(config_file, overrides or [])
        datasets = (
            cfg.train.dataset_path,
            *(cfg.evaluation[f"{s}_dataset_path"] for s in ("train", "val", "test")),
        )
        for text in filter(None, datasets):
            parse_dataset_string(text)
        print(OmegaConf.to_yaml(cfg), end="")
    return 0
