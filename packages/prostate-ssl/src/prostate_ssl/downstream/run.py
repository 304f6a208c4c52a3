"""One fine-tuning, from a run and two lists of patients to files."""

from __future__ import annotations

from pathlib import Path

import torch

from prostate_ssl.config.dataset_string import as_trained
from prostate_ssl.data import ProstateDataset, make_dataset
from prostate_ssl.downstream.classification import finetune_classification
from prostate_ssl.downstream.segmentation import FinetuneSettings, finetune_segmentation
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import load_backbone
from prostate_ssl.evaluation.run import print_remarks, said_of_lists
from prostate_ssl.files import make_writable, write_atomically, write_json

TASKS = {"segmentation": finetune_segmentation, "classification": finetune_classification}


def finetune(
    task: str,
    run: Path,
    data: str,
    lists: tuple[str, str],
    out: Path,
    settings: FinetuneSettings,
    share: float = 1.0,
    *,
    untrained: bool = False,
    weights: Path | None = None,
) -> dict[str, object]:
    """Learn `task` on the first list of patients, judge on the second; write `results.json` and `model.pth`.

    Args:
        task: segmentation (masks) or classification (labels).
        run: folder of the pre-training.
        data: folder of cases.
        lists: CSVs of training and validation patients.
        out: folder for the files.
        settings: how it is learned.
        share: few-shot: which share of the training masks or labels may be used; nested by seed.
        untrained: start from the run's initial weights.
        weights: another checkpoint.

    Raises:
        ProstateError: an unknown task, unusable data, no run.
    """
    if task not in TASKS:
        raise ProstateError(f"Unknown task {task!r}; known: {', '.join(TASKS)}.", 2)
    backbone = load_backbone(run, weights, untrained=untrained)
    kind = "ProstateSupervised" if task == "classification" else "ProstateSSL"
    # What is to be found may not be shown.
    hidden = {"append_label_mask": "False"} if task == "segmentation" else {}

    def dataset(split: str, path: str, used: float) -> ProstateDataset:
        text = as_trained(backbone.cfg.train.dataset_path, data, split, path, used, name=kind, **hidden)
        return make_dataset(dataset_str=text)

    train, val = dataset("TRAIN", lists[0], share), dataset("VAL", lists[1], 1.0)
    make_writable(out)
    model, document = TASKS[task](backbone.model, train, val, settings, backbone.device, print)
    document |= {"backbone": "untrained" if untrained else backbone.weights.name, "percentage_labels": share}
    print_remarks(train, val)
    if said := said_of_lists(train, val):
        document["note"] = said
        print(said)
    write_atomically(out / "model.pth", lambda file: torch.save({"model": model.state_dict()}, file))
    write_json(out / "results.json", document)
    return document
