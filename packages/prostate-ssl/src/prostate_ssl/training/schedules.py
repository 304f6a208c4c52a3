"""What changes from iteration to iteration, each as a closed form of the iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omegaconf import DictConfig


@dataclass(frozen=True)
class CosineSchedule:
    """Linear from `start` to `base` over the warm-up, then half a cosine from `base` to `final`.

    value(i) = start + (base − start) · i / (warmup − 1)                             for i < warmup
             = final + ½ (base − final) (1 + cos π (i − warmup) / (total − warmup))    up to total
             = final                                                                  from there on

    The published schedule (a table of the same numbers) reaches `base` at i = warmup − 1 and again at
    i = warmup.
    """

    base: float
    final: float
    total: int
    warmup: int = 0
    start: float = 0.0

    def __call__(self, iteration: int) -> float:
        """The value at an iteration, counted from 0."""
        if iteration >= self.total:
            return self.final
        if iteration < self.warmup:
            return self.start + (self.base - self.start) * iteration / max(self.warmup - 1, 1)
        progress = (iteration - self.warmup) / max(self.total - self.warmup, 1)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class StepSettings:
    """The scheduled values of one iteration."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float
    backbone_frozen: bool


@dataclass(frozen=True)
class Schedules:
    """All schedules of a training run.

    Attributes:
        epoch_length: iterations an epoch.
        total: iterations of the run.
    """

    lr: CosineSchedule
    weight_decay: CosineSchedule
    momentum: CosineSchedule
    teacher_temperature: CosineSchedule
    frozen_last_layer: int
    frozen_backbone: int
    epoch_length: int
    total: int

    def at(self, iteration: int) -> StepSettings:
        """Everything that holds at an iteration, counted from 0."""
        lr = self.lr(iteration)
        return StepSettings(
            lr=lr,
            last_layer_lr=0.0 if iteration < self.frozen_last_layer else lr,
            weight_decay=self.weight_decay(iteration),
            momentum=self.momentum(iteration),
            teacher_temperature=self.teacher_temperature(iteration),
            backbone_frozen=iteration < self.frozen_backbone,
        )


def build_schedules(cfg: DictConfig, lr: float, epoch_length: int) -> Schedules:
    """Schedules from the configuration.

    Args:
        cfg: complete configuration.
        lr: learning rate after the scaling rule.
        epoch_length: iterations an epoch.
    """
    optim, teacher = cfg.optim, cfg.teacher
    total = optim.epochs * epoch_length
    warm = teacher.warmup_teacher_temp_epochs * epoch_length
    return Schedules(
        lr=CosineSchedule(lr, optim.min_lr, total, optim.warmup_epochs * epoch_length),
        weight_decay=CosineSchedule(optim.weight_decay, optim.weight_decay_end, total),
        momentum=CosineSchedule(teacher.momentum_teacher, teacher.final_momentum_teacher, total),
        teacher_temperature=CosineSchedule(
            teacher.teacher_temp, teacher.teacher_temp, warm, warm, teacher.warmup_teacher_temp
        ),
        frozen_last_layer=optim.freeze_last_layer_epochs * epoch_length,
        frozen_backbone=optim.freeze_backbone_epochs * epoch_length,
        epoch_length=epoch_length,
        total=total,
    )
