"""The trained backbone of a run, ready to be asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.models.build import build_backbone
from prostate_ssl.models.vision_transformer import MedicalVisionTransformer
from prostate_ssl.models.weights import load_pretrained_weights
from prostate_ssl.training.checkpoint import readable_checkpoints

BEST_TEACHER = Path("eval", "best", "teacher_checkpoint.pth")


@dataclass(frozen=True)
class Backbone:
    """A frozen network and where it comes from.

    Attributes:
        model: in evaluation mode, on `device`.
        cfg: the run's complete configuration.
        weights: the file that was loaded.
        device: where the model lies.
    """

    model: MedicalVisionTransformer
    cfg: DictConfig
    weights: Path
    device: torch.device

    @property
    def fingerprint(self) -> str:
        """Changes when the weights change: 16 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().double().sum().cpu().numpy().tobytes())
        return digest.hexdigest()


def best_weights(run: Path) -> Path:
    """The teacher that evaluation kept as the best; without evaluation, the newest checkpoint.

    Raises:
        ProstateError: the run has neither.
    """
    if (run / BEST_TEACHER).is_file():
        return run / BEST_TEACHER
    newest = next(readable_checkpoints(run), None)
    if newest is None:
        raise ProstateError(
            f"{run} holds no checkpoint that can be read: train first, or name a file with --weights."
        )
    return newest


def load_backbone(
    run: Path, weights: Path | None = None, *, untrained: bool = False, device: torch.device | None = None
) -> Backbone:
    """Build a run's network and load its teacher.

    Args:
        run: folder of `prostate-ssl train`.
        weights: another checkpoint of the same architecture; default `best_weights(run)`.
        untrained: keep the initial weights (of the run's seed), for comparison.
        device: default the GPU if there is one.

    Raises:
        ProstateError: no run, no checkpoint, another architecture, weights that are no numbers.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise ProstateError(
            f"{run} is no run: it has no config.yaml. Give the --output-dir of a training.", 2
        )
    cfg = load_config(path)
    torch.manual_seed(cfg.train.seed)
    model = build_backbone(cfg)
    file = path if untrained else (weights or best_weights(run))
    if not untrained:
        load_pretrained_weights(model, file)
        if bad := next((n for n, p in model.named_parameters() if not p.isfinite().all()), None):
            raise ProstateError(
                f"{file} holds weights that are no numbers ({bad}). Name others with --weights."
            )
    chosen = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Backbone(model.to(chosen).eval().requires_grad_(False), cfg, file, chosen)
