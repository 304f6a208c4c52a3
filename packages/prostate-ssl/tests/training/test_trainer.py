"""One-process training: the teacher moves, the loss falls, stopping and going on changes nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf

from prostate_ssl.batch import CropBatch
from prostate_ssl.config import load_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation.backbone import best_weights
from prostate_ssl.evaluation.periodic import keep_best
from prostate_ssl.training.checkpoint import checkpoint_files, read_checkpoint
from prostate_ssl.training.global_batch import keep_global_batch
from prostate_ssl.training.metrics import read_metrics
from prostate_ssl.training.networks import SelfDistillation, StepInputs
from prostate_ssl.training.optimizer import build_optimizer, clip_gradients, parameter_rule, update_teacher
from prostate_ssl.training.session import Session
from prostate_ssl.training.trainer import TrainingOutcome, named_gradients, prepare, step, train
from prostate_ssl.training.watch import LossWatch, refuse_nan

HERE = Session(torch.device("cpu"), 0, 1)


def losses(folder: Path) -> dict[int, float]:
    return {i: r["total_loss"] for i, r in read_metrics(folder).items()}


def test_a_step_moves_the_student_by_adamw_and_the_teacher_by_its_momentum(small_config, tmp_path):
    (tmp_path / "run").mkdir()
    run = prepare(small_config, HERE, tmp_path / "run", resume=False)
    batches = run.data.batches(0)
    before = {n: p.clone() for n, p in run.networks.teacher.named_parameters()}
    for iteration in range(2):  # the learning rate of iteration 0 is 0
        step(run, iteration, next(batches))
    student = dict(run.networks.student.named_parameters())
    momentum = run.schedules.at(1).momentum
    moved = 0
    for name, now in run.networks.teacher.named_parameters():
        wanted = momentum * before[name].double() + (1 - momentum) * student[name].double()
        assert torch.allclose(now.double(), wanted, atol=1e-7), name
        moved += not torch.equal(now, before[name])
    # A block that stochastic depth dropped, and unused tokens, need not have moved.
    assert moved > 0.7 * len(before)


def test_training_writes_what_is_promised_and_a_finished_run_is_left_alone(small_config, tmp_path):
    outcome = train(small_config)
    folder = tmp_path / "run"
    assert outcome == TrainingOutcome(12, 12)
    kept = sorted(p.name for p in folder.glob("model_*"))
    assert kept == [f"model_{k:07d}.rank_0.pth" for k in (6, 9, 12)]
    assert (folder / "last_checkpoint.rank_0").read_text() == kept[-1]
    metrics = json.loads((folder / "training_metrics.json").read_text())
    assert list(metrics) == [str(i) for i in range(12)]
    assert {
        "lr",
        "wd",
        "total_loss",
        "dino_local_crops_loss",
        "dino_global_crops_loss",
        "koleo_loss",
        "ibot_loss",
    } <= set(metrics["0"])
    parts = ("dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss")
    assert metrics["4"]["total_loss"] == pytest.approx(sum(metrics["4"][p] for p in parts), abs=1e-5)
    line = (folder / "log.txt").read_text().splitlines()[-1]
    assert re.match(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] Training  \[11/12\]  eta: 0:00:00  lr: \d\.\d{6}  wd: 0\.\d{4}  "
        r"total_loss: \d+\.\d{4} \(\d+\.\d{4}\)  dino_local_crops_loss: ",
        line,
    )
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert list((folder / "tensorboard").iterdir())
    assert OmegaConf.load(folder / "config.yaml").student.arch == "medical_vit_tiny"
    stamp = (folder / kept[-1]).stat().st_mtime_ns
    assert train(small_config).did_nothing
    assert (folder / kept[-1]).stat().st_mtime_ns == stamp


def test_a_run_that_was_stopped_gives_the_same_losses_and_weights(small_config, small_overrides, tmp_path):
    train(small_config)
    whole, folder = losses(tmp_path / "run"), tmp_path / "cut"
    cut = load_config("demo", [*small_overrides, f"train.output_dir={folder}"])
    (folder).mkdir()
    run = prepare(cut, HERE, folder, resume=True)
    batches = run.data.batches(0)
    for iteration in range(5):
        step(run, iteration, next(batches))
    run.checkpointer.save(5, {"global_batch": 2})
    outcome = train(cut)
    assert outcome.resumed and outcome.completed == 12
    again = losses(folder)
    assert again == {i: value for i, value in whole.items() if i >= 5}
    files = [
        torch.load(d / "model_0000012.rank_0.pth", weights_only=True) for d in (tmp_path / "run", folder)
    ]
    for name, tensor in files[0]["model"].items():
        assert torch.equal(tensor, files[1]["model"][name]), name
    for name, state in files[0]["optimizer"].items():
        for key, tensor in state.items():
            assert torch.equal(tensor, files[1]["optimizer"][name][key]), (name, key)


def test_a_resumed_run_keeps_its_total_batch(small_config, small_overrides, tmp_path):
    """Another number of processes, or another batch in the configuration: the samples of a step stay the same."""
    train(small_config)
    whole, folder = losses(tmp_path / "run"), tmp_path / "cut"
    folder.mkdir()
    run = prepare(
        load_config("demo", [*small_overrides, f"train.output_dir={folder}"]), HERE, folder, resume=True
    )
    batches = run.data.batches(0)
    for iteration in range(5):
        step(run, iteration, next(batches))
    run.checkpointer.save(5, {"global_batch": run.data.global_batch})
    changed = [*small_overrides, f"train.output_dir={folder}", "train.batch_size_per_gpu=1"]
    assert train(load_config("demo", changed)).completed == 12
    assert losses(folder) == {i: value for i, value in whole.items() if i >= 5}
    assert "total batch of 2: 2 cases in each of 1 processes" in (folder / "log.txt").read_text()
    three = replace(HERE, world_size=3)
    with pytest.raises(ProstateError, match=r"3 processes cannot share evenly.*\(1, 2\)"):
        keep_global_batch(load_config("demo", changed), three, folder)


def test_sigterm_saves_and_the_same_command_goes_on(small_overrides, tmp_path):
    folder = tmp_path / "run"
    overrides = [*small_overrides, "optim.epochs=200", "train.saveckp_iterations=100000"]
    command = [
        sys.executable, "-m", "prostate_ssl.train", "--config-file", "demo", "--output-dir", str(folder), *overrides,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while len(losses(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    files = list(folder.glob("model_*"))
    assert len(files) == 1
    done = int(files[0].name[6:13])
    assert done >= 3 and f"after iteration {done}" in output


def test_changed_optimiser_settings_are_honoured_on_resuming(small_config, small_overrides, tmp_path):
    train(small_config)
    longer = load_config(
        "demo",
        [*small_overrides, f"train.output_dir={tmp_path / 'run'}", "optim.epochs=7", "optim.base_lr=0.5"],
    )
    assert train(longer).completed == 14
    record = read_metrics(tmp_path / "run")[12]
    assert record["lr"] > 0.001


def test_another_seed_on_resuming_is_said(small_config, small_overrides, tmp_path):
    train(small_config)
    longer = [*small_overrides, f"train.output_dir={tmp_path / 'run'}"]
    train(load_config("demo", [*longer, "optim.epochs=7"]))
    assert "train.seed" not in (tmp_path / "run" / "log.txt").read_text()
    train(load_config("demo", [*longer, "optim.epochs=8", f"train.seed={small_config.train.seed + 5}"]))
    said = f"train.seed is {small_config.train.seed + 5} and was {small_config.train.seed}: "
    assert (tmp_path / "run" / "log.txt").read_text().count(said) == 1


def test_model_weights_start_a_new_run(small_config, small_overrides, tmp_path):
    train(small_config)
    source = tmp_path / "run" / "model_0000012.rank_0.pth"
    other = load_config(
        "demo", [*small_overrides, f"train.output_dir={tmp_path / 'new'}", f"MODEL.WEIGHTS={source}"]
    )
    (tmp_path / "new").mkdir()
    run = prepare(other, HERE, tmp_path / "new", resume=True)
    wanted = torch.load(source, weights_only=True)["model"]
    assert run.first == 0 and not run.optimizer.state
    assert all(torch.equal(t, wanted[n]) for n, t in run.networks.state_dict().items())


def test_frozen_backbone_and_last_layer_stay_as_they_are(small_overrides, tmp_path):
    cfg = load_config(
        "demo",
        [
            *small_overrides,
            "optim.freeze_backbone_epochs=1",
            "optim.freeze_last_layer_epochs=1",
            "optim.warmup_epochs=0",
        ],
    )
    (tmp_path / "r").mkdir()
    run = prepare(cfg, HERE, tmp_path / "r", resume=False)
    before = {n: p.clone() for n, p in run.networks.student.named_parameters()}
    batches = run.data.batches(0)
    step(run, 0, next(batches))
    now = dict(run.networks.student.named_parameters())
    still = [n for n in before if torch.equal(before[n], now[n])]
    assert all(n in still for n in before if n.startswith("backbone.") or "last_layer" in n)
    assert not torch.equal(before["dino_head.mlp.0.weight"], now["dino_head.mlp.0.weight"])
    step(run, 1, next(batches))
    step(run, 2, next(batches))
    now = dict(run.networks.student.named_parameters())
    assert not torch.equal(before["backbone.pos_embed"], now["backbone.pos_embed"])
    assert not torch.equal(before["dino_head.last_layer.weight_v"], now["dino_head.last_layer.weight_v"])


def test_a_backbone_that_never_learns_is_said(small_overrides, tmp_path):
    frozen = ["optim.epochs=1", "optim.freeze_backbone_epochs=1", f"train.output_dir={tmp_path}"]
    train(load_config("demo", [*small_overrides, *frozen]))
    assert "only the heads learn" in (tmp_path / "log.txt").read_text()


def random_batch(cfg, seed: int = 0) -> CropBatch:
    g = torch.Generator().manual_seed(seed)
    return CropBatch(
        torch.randn(4, 3, 28, 28, generator=g),
        torch.randn(4, 3, 14, 14, generator=g),
        torch.ones(2, 3, dtype=torch.bool),
        torch.rand(4, 3, 16, generator=g) < 0.3,
        torch.arange(2),
    )


def test_two_backward_passes_give_the_gradient_of_the_sum(small_config):
    torch.manual_seed(0)
    networks = SelfDistillation(small_config)
    batch, inputs = random_batch(small_config), StepInputs(0.05)
    networks.forward_backward(batch, inputs)
    got = {n: p.grad.clone() for n, p in networks.student.named_parameters() if p.grad is not None}
    networks.zero_grad()
    for center in (networks.dino_loss, networks.ibot_patch_loss):
        center.center.zero_()
    targets, shown = networks.teacher_targets(batch, 0.05), {}
    total = networks._local_loss(batch, inputs, targets, shown) + networks._global_loss(
        batch, inputs, targets, shown
    )
    total.backward()
    for name, parameter in networks.student.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, got[name], atol=1e-6), name


def test_absent_modalities_are_not_predicted(small_config):
    torch.manual_seed(0)
    networks = SelfDistillation(small_config)
    batch = random_batch(small_config)
    present = torch.tensor([[True, False, True], [True, True, True]])
    lacking = CropBatch(batch.global_crops, batch.local_crops, present, batch.masks, batch.case_index)
    masked = networks._masked_tokens(lacking)
    crops, modality = masked.index[masked.valid] // 48, masked.index[masked.valid] % 48 // 16
    assert not ((crops % 2 == 0) & (modality == 1)).any()
    values = networks.forward_backward(lacking, StepInputs(0.05))
    assert all(torch.isfinite(v) for v in values.values())


@pytest.mark.parametrize(
    ("name", "depth", "lr", "wd", "last"),
    [
        ("pos_embed", 12, 0.9**13, 1, False),
        ("patch_embed.proj.weight", 12, 0.9**13 * 0.2, 1, False),
        ("patch_embed.proj.bias", 12, 0.9**13 * 0.2, 0, False),
        ("blocks.0.attn.qkv.weight", 12, 0.9**12, 1, False),
        ("blocks.11.norm1.weight", 12, 0.9, 0, False),
        ("blocks.3.ls1.gamma", 12, 0.9**9, 0, False),
        ("norm.weight", 12, 1, 0, False),
        ("mri_seq_embed.weight", 12, 1, 1, False),
        ("mlp.0.weight", 0, 1, 1, False),
        ("last_layer.weight_v", 0, 1, 1, True),
    ],
)
def test_layerwise_rules_are_the_published_ones(name, depth, lr, wd, last):
    rule = parameter_rule(name, depth, 0.9, 0.2)
    assert (rule.lr_multiplier, rule.wd_multiplier, rule.is_last_layer) == (pytest.approx(lr), wd, last)


def test_clipping_is_per_submodule(small_config):
    networks = SelfDistillation(small_config)
    build_optimizer(networks.student, small_config)
    for parameter in networks.student.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = clip_gradients(networks.student, 3.0)
    after = clip_gradients(networks.student, None)
    assert set(before) == {"backbone", "dino_head"}
    for name, norm in after.items():
        assert norm == pytest.approx(3.0, rel=1e-4) and before[name] > 3


def test_the_norm_of_what_does_not_learn_lies_where_the_others_do():
    # As on a GPU: `meta` is a device that is not the CPU either.
    with torch.device("meta"):
        student = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "dino_head": torch.nn.Linear(2, 2)})
        for parameter in student["dino_head"].parameters():
            parameter.grad = torch.ones_like(parameter)
    norms = clip_gradients(student, 3.0)
    assert {norm.device.type for norm in norms.values()} == {"meta"}
    assert {norm.shape for norm in norms.values()} == {torch.Size([])}


def test_histograms_see_some_of_a_large_gradient_and_all_of_a_small_one(small_config):
    networks = SelfDistillation(small_config)
    networks.student = torch.nn.ModuleDict(
        {"large": torch.nn.Linear(256, 4096), "small": torch.nn.Linear(3, 5), "frozen": torch.nn.Linear(2, 2)}
    )
    for name in ("large", "small"):
        for parameter in networks.student[name].parameters():
            parameter.grad = torch.arange(parameter.numel()).view_as(parameter).float()
    found = named_gradients(networks)
    assert set(found) == {"large.weight", "large.bias", "small.weight", "small.bias"}
    assert found["small.weight"].tolist() == list(range(15)) and len(found["large.bias"]) == 4096
    seen = found["large.weight"].long()
    assert 2_048 < len(seen) <= 4_096 and seen[-1] > 0.99 * 256 * 4096
    assert len((seen % 256).unique()) == 256 and len((seen // 256).unique()) > 4000
    assert {values.dtype for values in found.values()} == {torch.float32}
    networks.student = torch.nn.ModuleDict({"frozen": torch.nn.Linear(2, 2)})
    assert named_gradients(networks) == {}


def test_a_nan_stops_with_a_post_mortem(small_config, tmp_path):
    batch = random_batch(small_config)
    batch.global_crops[1, 0, 0, 0] = float("nan")
    watch = LossWatch(0)
    watch.push(7, {"total_loss": torch.tensor(float("nan")), "grad_norm_backbone": torch.tensor(2.0)}, batch)
    ((entry, values),) = watch.pop()
    with pytest.raises(ProstateError, match=r"iteration 7.*phantom_b hold NaN.*optim\.base_lr"):
        refuse_nan(entry, values, ["phantom_a", "phantom_b"], tmp_path, 0)
    told = json.loads((tmp_path / "post_mortem" / "iteration_7.rank_0.json").read_text())
    assert told["values"] == {"total_loss": "nan", "grad_norm_backbone": 2.0}
    assert set(told["cases"]) == {"phantom_a", "phantom_b"} and told["cases"]["phantom_a"]["max"] > 1
    saved = torch.load(tmp_path / "post_mortem" / "iteration_7.rank_0.pt", weights_only=True)
    assert saved["global_crops"].shape == (4, 3, 28, 28)


def test_a_gradient_that_is_no_number_stops_before_its_weights_are_saved(small_config, tmp_path):
    watch = LossWatch(0)
    values = {"total_loss": torch.tensor(2.0), "grad_norm_backbone": torch.tensor(float("inf"))}
    watch.push(2, values, random_batch(small_config))
    ((entry, told),) = watch.pop()
    with pytest.raises(
        ProstateError, match=r"NaN detected in gradients at iteration 2: grad_norm_backbone\."
    ):
        refuse_nan(entry, told, ["a", "b"], tmp_path, 0)


def test_a_diverging_training_leaves_no_checkpoint_of_nan(small_overrides, tmp_path):
    cfg = load_config("demo", [*small_overrides, f"train.output_dir={tmp_path}", "optim.base_lr=1e30"])
    with pytest.raises(ProstateError, match="NaN detected"):
        train(cfg)
    for path in checkpoint_files(tmp_path):
        assert all(t.isfinite().all() for t in read_checkpoint(path)["model"].values())
    (told,) = (tmp_path / "post_mortem").glob("*.json")
    assert json.loads(told.read_text())["cases"]


def test_starting_anew_forgets_what_the_earlier_run_found(small_config, tmp_path):
    """A teacher of the earlier run, scored higher, would be taken for the best of this one."""
    train(small_config)
    folder = tmp_path / "run"
    score = {"mcc": 0.9}
    keep_best(folder, 11, "mcc", score, {"cls_token": torch.zeros(1)})
    before = {path.name for path in (folder / "tensorboard").iterdir()}
    assert train(small_config, resume=False).completed == 12
    assert not (folder / "eval").exists() and best_weights(folder).name == "model_0000012.rank_0.pth"
    assert not before & {path.name for path in (folder / "tensorboard").iterdir()}
    assert sorted(losses(folder)) == list(range(12))


def test_starting_anew_from_a_runs_own_weights_reads_them_first(small_overrides, tmp_path, capsys):
    cfg = load_config("demo", [*small_overrides, f"train.output_dir={tmp_path}"])
    train(cfg)
    kept = {path.name for path in checkpoint_files(tmp_path)}
    cfg.MODEL.WEIGHTS = str(tmp_path / "typo.pth")
    with pytest.raises(ProstateError, match=r"No checkpoint at .*typo.pth"):
        train(cfg, resume=False)
    assert {path.name for path in checkpoint_files(tmp_path)} == kept
    cfg.MODEL.WEIGHTS = str(checkpoint_files(tmp_path)[0])
    assert not train(cfg, resume=False).resumed


def test_a_finished_run_keeps_the_configuration_that_it_was_trained_with(small_overrides, tmp_path):
    cfg = load_config("demo", [*small_overrides, f"train.output_dir={tmp_path}"])
    train(cfg)
    before = (tmp_path / "config.yaml").read_text()
    cfg.crops.max_blur_radius = 2.0
    assert train(cfg).did_nothing
    assert (tmp_path / "config.yaml").read_text() == before


def test_two_trainings_do_not_share_a_folder(small_overrides, tmp_path):
    cfg = load_config("demo", [*small_overrides, f"train.output_dir={tmp_path}"])
    with (
        FileLock(tmp_path / ".training.lock"),
        pytest.raises(ProstateError, match="Another training is at work"),
    ):
        train(cfg)
    assert not checkpoint_files(tmp_path)
    train(cfg)


def test_the_teacher_is_one_fused_lerp_of_the_student(small_config):
    networks = SelfDistillation(small_config)
    with torch.no_grad():
        for parameter in networks.student.parameters():
            parameter.add_(1)
    before = [p.clone() for p in networks.teacher.parameters()]
    update_teacher(networks.student, networks.teacher, 0.75)
    pairs = zip(networks.teacher.parameters(), networks.student.parameters(), before, strict=True)
    assert all(torch.allclose(t, 0.75 * b + 0.25 * s, atol=1e-6) for t, s, b in pairs)


def test_the_gland_mask_can_be_fed_as_one_more_channel(small_overrides, cases, tmp_path):
    dataset = f"ProstateSSL:split=TRAIN:root={cases}:append_label_mask=True"
    cfg = load_config(
        "demo",
        [*small_overrides, f"train.dataset_path={dataset}", "optim.epochs=1", f"train.output_dir={tmp_path}"],
    )
    assert train(cfg).completed == 2
    names = torch.load(tmp_path / "model_0000002.rank_0.pth", weights_only=True)["model"]
    assert names["student.backbone.mri_seq_embed.weight"].shape[0] == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.train_dataset_path={labelled}", "only the class 1"),
        ("evaluation.metric_types=[auroc]", "nearest known value is auc"),
        ("semi_supervised.loss_weight=1", "no case .* has a label"),
        ("train.dataset_path={labelled}", "All 4 labelled cases .* are of class 1"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_the_start(
    override, message, small_overrides, cases, tmp_path
):
    names = [case.name for case in sorted(cases.iterdir()) if case.is_dir()]
    (tmp_path / "one.csv").write_text("patient_id,label\n" + "".join(f"{name},1\n" for name in names))
    (tmp_path / "two.csv").write_text(
        "patient_id,label\n" + "".join(f"{name},{k % 2}\n" for k, name in enumerate(names))
    )
    (tmp_path / "unlabelled").mkdir()
    for name in names:
        (tmp_path / "unlabelled" / name).symlink_to(cases / name)
    one, two = (
        f"ProstateSupervised:split=TRAIN:root={cases}:split_csv={tmp_path / name}"
        for name in ("one.csv", "two.csv")
    )
    unlabelled = f"ProstateSSL:split=TRAIN:root={tmp_path / 'unlabelled'}"
    overrides = [
        *small_overrides,
        f"train.output_dir={tmp_path / 'run'}",
        "evaluation.eval_period_iterations=3",
        f"evaluation.train_dataset_path={two}",
        f"evaluation.val_dataset_path={two}",
        f"train.dataset_path={unlabelled}",
        "semi_supervised.loss_weight=1",
        override.format(labelled=one),
    ]
    with pytest.raises(ProstateError, match=message):
        train(load_config("demo", overrides))


def test_training_goes_without_local_crops(small_overrides, tmp_path):
    overrides = [*small_overrides, "crops.local_crops_number=0", "optim.epochs=1"]
    train(load_config("demo", [*overrides, f"train.output_dir={tmp_path}"]))
    assert read_metrics(tmp_path)[0]["total_loss"] > 0
