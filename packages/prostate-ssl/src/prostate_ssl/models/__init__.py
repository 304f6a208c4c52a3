"""The backbone in all its sizes, its heads, and how weights get into them."""

from prostate_ssl.models.build import ARCHITECTURES, build_model_from_cfg
from prostate_ssl.models.head import DINOHead
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer, VitShape
from prostate_ssl.models.weights import WeightsReport, load_pretrained_weights

__all__ = [
    "ARCHITECTURES",
    "DINOHead",
    "MedicalVisionTransformer",
    "VitShape",
    "WeightsReport",
    "build_model_from_cfg",
    "load_pretrained_weights",
]
