"""Configuration: the published keys, typed; files, presets and overrides on top of each other."""

from prostate_ssl.config.loading import complete_config, load_config, preset_names, save_config
from prostate_ssl.config.schema import Config

__all__ = ["Config", "complete_config", "load_config", "preset_names", "save_config"]
