"""Evaluation in the middle of a training, and keeping the best teacher."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from prostate_ssl.config.choices import metric_names
from prostate_ssl.data import make_dataset
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import BEST_TEACHER
from prostate_ssl.evaluation.log_regression import eval_log_regression_with_model
from prostate_ssl.files import write_atomically, write_json
from prostate_ssl.models.build import build_backbone
from prostate_ssl.training.checkpoint import full_tensor
from prostate_ssl.training.networks import SelfDistillation
from prostate_ssl.training.session import Session

log = logging.getLogger("prostate_ssl")


def check_evaluation(cfg: DictConfig) -> None:
    """Refuse before the first step what would end the training at its first evaluation.

    Raises:
        ProstateError: an unknown metric; unusable datasets; no labels, or one class only.
    """
    metric_names(cfg.evaluation.metric_types)
    for name in ("train_dataset_path", "val_dataset_path"):
        dataset = make_dataset(dataset_str=cfg.evaluation[name])
        dataset.require_labels()
        labels = dataset.labels
        classes = sorted(set(labels[labels >= 0].tolist()))
        if not classes or (len(classes) == 1 and name == "train_dataset_path"):
            found = f"only the class {classes[0]}" if classes else "no labels"
            raise ProstateError(
                f"evaluation.{name}: its list has {found}. A probe needs a label column with two classes; "
                "or set evaluation.eval_period_iterations to 0.",
                2,
            )


def evaluate_teacher(
    cfg: DictConfig, networks: SelfDistillation, session: Session, folder: Path, iteration: int
) -> None:
    """Probe the teacher, write `eval/training_N/results.json`, keep the best teacher in `eval/best`.

    All ranks call it (the teacher may be sharded); rank 0 does the work and the others wait.

    Raises:
        ProstateError: the labelled cases cannot be used.
    """
    state = {name: full_tensor(t) for name, t in networks.teacher["backbone"].state_dict().items()}
    if session.is_main:
        # The trained module may be compiled and sharded; a plain copy answers without recompiling.
        model = build_backbone(cfg)
        model.load_state_dict(state)
        names = metric_names(cfg.evaluation.metric_types)
        results = eval_log_regression_with_model(
            model.to(session.device).eval(),
            train_dataset_str=cfg.evaluation.train_dataset_path,
            val_dataset_str=cfg.evaluation.val_dataset_path,
            metric_types=names,
        ).metrics
        keep_best(folder, iteration, names[0], results, state)
    if session.world_size > 1:
        dist.barrier()


def keep_best(
    folder: Path, iteration: int, metric: str, results: dict[str, float], state: dict[str, torch.Tensor]
) -> None:
    """Write an evaluation's results, and its teacher if none before scored higher."""
    plain = {name: (value if math.isfinite(value) else None) for name, value in results.items()}
    here = folder / "eval" / f"training_{iteration}"
    here.mkdir(parents=True, exist_ok=True)
    write_json(here / "results.json", {"val": plain})
    log.info("Evaluation at iteration %d: %s", iteration, plain)
    best = folder / BEST_TEACHER.parent / "best.json"
    before = json.loads(best.read_text()) if best.is_file() else None
    value = plain[metric]
    if value is None or (before is not None and before["metric"] == metric and before["value"] >= value):
        return
    best.parent.mkdir(exist_ok=True)
    write_atomically(folder / BEST_TEACHER, lambda file: torch.save({"teacher": state}, file))
    write_json(best, {"iteration": iteration, "metric": metric, "value": value})
    log.info("Best teacher so far: %s %.4f at iteration %d.", metric, value, iteration)
