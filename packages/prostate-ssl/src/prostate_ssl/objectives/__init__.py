"""The objectives, one file each, and how teacher scores become targets."""

from prostate_ssl.objectives.centering import RunningCenter, sinkhorn_knopp
from prostate_ssl.objectives.dino import dino_loss
from prostate_ssl.objectives.ibot import MaskedTokens, ibot_patch_loss, masked_token_bound, select_masked
from prostate_ssl.objectives.koleo import koleo_loss
from prostate_ssl.objectives.semi_supervised import semi_supervised_loss

__all__ = [
    "MaskedTokens",
    "RunningCenter",
    "dino_loss",
    "ibot_patch_loss",
    "koleo_loss",
    "masked_token_bound",
    "select_masked",
    "semi_supervised_loss",
    "sinkhorn_knopp",
]
