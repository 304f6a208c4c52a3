"""The training, from the configuration to the last checkpoint. Start reading here.

open the session → build and parallelize the networks → resume → for every batch:
schedules → teacher targets, local and global losses, backward → clip → AdamW → move the teacher →
log, evaluate, save. (Of several ranks with replicas, each clips and updates a share: `replicas`.)
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from prostate_ssl.batch import CropBatch
from prostate_ssl.config import save_config
from prostate_ssl.config.choices import refuse_unknown_architecture
from prostate_ssl.config.loading import probes_are_configured, scaled_learning_rate
from prostate_ssl.host import host_memory
from prostate_ssl.models.weights import load_pretrained_weights
from prostate_ssl.training.checkpoint import Checkpointer, checkpoint_files, read_checkpoint
from prostate_ssl.training.feed import TrainingData, open_training_data
from prostate_ssl.training.global_batch import keep_global_batch
from prostate_ssl.training.gradients import LaunchedGradients, build_gradients, step_stream
from prostate_ssl.training.lock import alone_in
from prostate_ssl.training.memory import check_host_memory, check_memory, out_of_memory
from prostate_ssl.training.metrics import MetricsLog, setup_logging
from prostate_ssl.training.networks import GLOBAL_CROPS, SelfDistillation, StepInputs
from prostate_ssl.training.optimizer import apply_settings, build_optimizer, clip_gradients, update_teacher
from prostate_ssl.training.parallelize import parallelize
from prostate_ssl.training.randomness import drop_path_scales
from prostate_ssl.training.schedules import Schedules, StepSettings, build_schedules
from prostate_ssl.training.session import Session, open_session
from prostate_ssl.training.stopping import StopRequest
from prostate_ssl.training.watch import LossWatch, Pending, refuse_nan

log = logging.getLogger("prostate_ssl")
_HISTOGRAM_EVERY = 50  # log lines
_COLLECT_EVERY = 100  # iterations


@dataclass(frozen=True)
class TrainingOutcome:
    """How a call of `train` ended.

    Attributes:
        completed: iterations done so far, over all calls.
        total: iterations that the configuration asks for.
        stopped_by: number of the signal that ended it early, or None.
        did_nothing: the run was finished before.
        resumed: it went on from a checkpoint.
    """

    completed: int
    total: int
    stopped_by: int | None = None
    did_nothing: bool = False
    resumed: bool = False


@dataclass
class Run:
    """Everything that a running training holds."""

    cfg: DictConfig
    session: Session
    folder: Path
    data: TrainingData
    networks: SelfDistillation
    gradients: LaunchedGradients
    optimizer: torch.optim.AdamW
    schedules: Schedules
    checkpointer: Checkpointer
    first: int = 0
    watch: LossWatch = field(default_factory=lambda: LossWatch(0))


def train(cfg: DictConfig, *, resume: bool = True) -> TrainingOutcome:
    """Pre-train as configured into `cfg.train.output_dir`, going on from its last checkpoint.

    Args:
        cfg: complete configuration.
        resume: False starts anew (the old checkpoints, evaluations and curves are removed).

    Raises:
        ProstateError: an unknown architecture, one that memory cannot hold, unusable data or weights, a NaN
            loss, a checkpoint that cannot be written.
    """
    refuse_unknown_architecture(cfg.student.arch)
    folder = Path(cfg.train.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with open_session(cfg) as session, alone_in(folder, session), step_stream(cfg, session):
        setup_logging(folder, session.is_main)
        run = prepare(cfg, session, folder, resume)
        if run.first >= run.schedules.total:
            log.info("Already finished: %d of %d iterations are done.", run.first, run.schedules.total)
            return TrainingOutcome(run.first, run.schedules.total, did_nothing=True)
        try:
            with no_collector_pauses():
                outcome = run_iterations(run)
        except BaseException:
            # Where there are others, they may be waiting in the middle of a graph.
            if session.world_size == 1:
                with suppress(RuntimeError):
                    run.gradients.release()
            raise
        run.gradients.release()
        return outcome


def prepare(cfg: DictConfig, session: Session, folder: Path, resume: bool, *, announce: bool = True) -> Run:
    """Data, networks, optimiser and schedules, restored from the last checkpoint if there is one."""
    if resume:
        keep_global_batch(cfg, session, folder)
    if session.device.type == "cuda":
        total_memory = torch.cuda.get_device_properties(session.device).total_memory
        check_memory(cfg, total_memory, session.world_size)
    else:
        check_host_memory(cfg, host_memory(), session.world_size)
    if probes_are_configured(cfg):
        from prostate_ssl.evaluation.periodic import check_evaluation

        check_evaluation(cfg)
    data = open_training_data(cfg, session)
    schedules = build_schedules(cfg, scaled_learning_rate(cfg, session.world_size), data.epoch_length)
    # Every rank draws the same weights, so sharding and replication begin with equal networks.
    torch.manual_seed(cfg.train.seed)
    networks = SelfDistillation(cfg).to(session.device)
    if cfg.student.pretrained_weights:
        report = load_pretrained_weights(networks.student_backbone, cfg.student.pretrained_weights)
        log.info("Pretrained weights %s: %s", cfg.student.pretrained_weights, report)
        if cfg.teacher.init_with_student_weights:
            networks.teacher.load_state_dict(networks.student.state_dict())
    networks.train()
    networks.teacher.eval()
    parallelize(networks, cfg, session)
    replicas = networks.replicas
    optimizer = build_optimizer(networks.student, cfg, replicas)
    checkpointer = Checkpointer(folder, networks, optimizer, session, cfg.train.max_to_keep, replicas)
    gradients = build_gradients(networks, cfg, session)
    if replicas is not None:
        data.feed.cut_after(replicas.passed)
    run = Run(cfg, session, folder, data, networks, gradients, optimizer, schedules, checkpointer)
    run.watch.lag = 1 if session.device.type == "cuda" else 0
    run.first = restore(run, resume)
    # A finished run keeps what its weights were trained with.
    if session.is_main and run.first < schedules.total:
        save_config(cfg, folder / "config.yaml")
    if announce:
        _announce(run)
    return run


def restore(run: Run, resume: bool) -> int:
    """Load the last checkpoint, or the weights to start from. Returns the first iteration to do."""
    state = run.checkpointer.resume() if resume else None
    if state is not None:
        first = int(state["iteration"]) + 1
        log.info("Resuming after iteration %d.", first)
        if (trained := state.get("seed", run.cfg.train.seed)) != run.cfg.train.seed:
            log.info(
                "train.seed is %d and was %d: order, crops and masks are others from here on, so this is not "
                "the run that would have gone on with %d.",
                run.cfg.train.seed, trained, trained,
            )  # fmt: skip
        return first
    if run.cfg.MODEL.WEIGHTS:
        path = Path(run.cfg.MODEL.WEIGHTS)
        run.checkpointer.restore({"model": read_checkpoint(path)["model"]}, path)
        log.info("Starting from the weights of %s.", path)
    if not resume:
        # Only now: the weights may be the old training's own, and a wrong name must not cost what is there.
        if run.session.world_size > 1:
            dist.barrier()
        if run.session.is_main:
            forget(run.folder)
    return 0


def forget(folder: Path) -> None:
    """Remove what an earlier training left that would be taken for this one's: its results and its curves."""
    for old in (*checkpoint_files(folder), folder / "last_checkpoint.rank_0"):
        old.unlink(missing_ok=True)
    for old in (folder / "eval", folder / "post_mortem", folder / "tensorboard"):
        shutil.rmtree(old, ignore_errors=True)


def _announce(run: Run) -> None:
    cfg, data = run.cfg, run.data
    log.info(
        "%s, %s on %s × %d; %d cases, total batch %d, %d iterations an epoch, %d in all; lr %.3g after %s.",
        cfg.student.arch,
        cfg.precision,
        run.session.device.type,
        run.session.world_size,
        len(data.case_names),
        data.global_batch,
        data.epoch_length,
        run.schedules.total,
        scaled_learning_rate(cfg, run.session.world_size),
        cfg.optim.scaling_rule,
    )
    if cfg.optim.warmup_epochs >= cfg.optim.epochs:
        log.info("optim.warmup_epochs covers the whole run: the learning rate only rises.")
    if cfg.optim.freeze_backbone_epochs >= cfg.optim.epochs:
        log.info("optim.freeze_backbone_epochs covers the whole run: only the heads learn.")
    if cfg.evaluation.eval_period_iterations and not probes_are_configured(cfg):
        log.info(
            "No probes during the training: evaluation.train_dataset_path and val_dataset_path are empty."
        )
    if cfg.compute_precision.grad_scaler:
        log.info(
            "compute_precision asks for fp16 with a gradient scaler: trained in %s without one.",
            cfg.precision,
        )


def run_iterations(run: Run) -> TrainingOutcome:
    """The loop, with the log open that the main process keeps."""
    if not run.session.is_main:
        return iterate(run, None)
    with MetricsLog(run.folder, run.first, run.schedules.total, run.cfg.train.log_every) as metrics:
        return iterate(run, metrics)


def iterate(run: Run, metrics: MetricsLog | None) -> TrainingOutcome:
    """The loop."""
    cfg, total = run.cfg, run.schedules.total
    histogram_period = cfg.train.log_every * _HISTOGRAM_EVERY
    stop = StopRequest(run.session)
    iteration = run.first - 1
    batches = run.data.batches(run.first)
    try:
        for iteration in range(run.first, total):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            values = step(run, iteration, batch)
            run.watch.push(iteration, values, batch)
            report(run, metrics, run.watch.pop(), time.perf_counter() - asked, waited)
            if metrics and run.session.world_size == 1 and iteration % histogram_period == 0:
                metrics.histograms(iteration, named_gradients(run.networks))
            evaluate(run, iteration)
            stopping = stop.agreed(iteration, cfg.train.log_every)
            if stopping or save_is_due(run, iteration):
                save(run, metrics, iteration + 1)
            if stopping:
                log.info("Stopped by a signal after iteration %d; the same command goes on.", iteration + 1)
                return TrainingOutcome(iteration + 1, total, stop.received or 15, resumed=run.first > 0)
    except torch.cuda.OutOfMemoryError as error:
        raise out_of_memory(cfg, run.session.device, run.session.world_size) from error
    finally:
        stop.restore()
    return TrainingOutcome(iteration + 1, total, resumed=run.first > 0)


@contextmanager
def no_collector_pauses() -> Iterator[None]:
    """Python's collector runs only in `step`, `save` and before a step is recorded, on all ranks at once.

    Where it looks at everything it takes tens of milliseconds, and all ranks wait for the one that it stops.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def step(run: Run, iteration: int, batch: CropBatch) -> dict[str, torch.Tensor]:
    """One iteration: forward, backward, clip, AdamW, teacher. Returns scalars on the device."""
    if iteration % _COLLECT_EVERY == 0:
        gc.collect(1)
    settings = run.schedules.at(iteration)
    apply_settings(run.optimizer, settings)
    values = run.gradients(batch, step_inputs(run, iteration, batch, settings))
    replicas = run.networks.replicas
    norms = clip_gradients(run.networks.student, run.cfg.optim.clip_grad, replicas)
    run.optimizer.step()
    if replicas is not None:
        replicas.spread()
    update_teacher(run.networks.student, run.networks.teacher, settings.momentum)
    return values | {f"grad_norm_{name}": norm for name, norm in norms.items()}


def step_inputs(run: Run, iteration: int, batch: CropBatch, settings: StepSettings) -> StepInputs:
    """The scheduled and the drawn quantities of an iteration."""
    cfg, device = run.cfg, run.session.device
    depth, rate = run.networks.student_backbone.n_blocks, cfg.student.drop_path_rate
    rates = (
        [rate] * depth
        if cfg.student.drop_path_uniform
        else [rate * i / max(depth - 1, 1) for i in range(depth)]
    )
    scales = {}
    for kind, crops in (("global", GLOBAL_CROPS), ("local", cfg.crops.local_crops_number)):
        drawn = drop_path_scales(
            rates, crops, run.data.global_batch, run.data.positions, (cfg.train.seed, iteration, kind)
        )
        scales[kind] = None if drawn is None else to_device(drawn, device)
    labels = run.data.labels(batch.case_index) if cfg.semi_supervised.loss_weight > 0 else None
    temperature = to_device(torch.tensor(settings.teacher_temperature), device)
    return StepInputs(temperature, scales["global"], scales["local"], labels, settings.backbone_frozen)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device without waiting for it: through pinned memory where it is a GPU."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def report(
    run: Run,
    metrics: MetricsLog | None,
    due: list[tuple[Pending, dict[str, float]]],
    seconds: float | None = None,
    waited: float = 0.0,
) -> None:
    """Check and log the iterations whose values have reached the host.

    Args:
        run, metrics: where they belong.
        due: the iterations with their values.
        seconds, waited: time of the last iteration, and how much of it was waiting for data.
    """
    for entry, values in due:
        refuse_nan(entry, values, run.data.case_names, run.folder, run.session.rank)
        if metrics is None:
            continue
        at = run.schedules.at(entry.iteration)
        scheduled = {
            "lr": at.lr,
            "wd": at.weight_decay,
            "mom": at.momentum,
            "last_layer_lr": at.last_layer_lr,
            "teacher_temp": at.teacher_temperature,
            "backbone_frozen": float(at.backbone_frozen),
            "current_batch_size": float(len(entry.batch.case_index)),
        }
        if seconds is not None:
            scheduled |= {"iteration_seconds": seconds, "data_seconds": waited}
        if run.session.device.type == "cuda":
            scheduled["memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        metrics.add(entry.iteration, values, scheduled)


def named_gradients(networks: SelfDistillation, at_most: int = 4_096) -> dict[str, torch.Tensor]:
    """Gradients of the student by name, for histograms: (n,) float32 on the host.

    Of a large one about `at_most` evenly spaced values: of all the 86 million of a ViT-B, a core draws the
    histograms in five seconds, and the GPU would wait.
    """
    chosen = {
        # An odd distance: an even one would meet the same few columns of a matrix again and again.
        name: p.grad.detach().flatten()[:: -(-p.grad.numel() // at_most) | 1].float()
        for name, p in networks.student.named_parameters()
        if p.grad is not None
    }
    if not chosen:
        return {}
    values = torch.cat(list(chosen.values())).cpu().split([len(part) for part in chosen.values()])
    return dict(zip(chosen, values, strict=True))


def save_is_due(run: Run, iteration: int) -> bool:
    """Every `saveckp_iterations`, or every `saveckp_freq` epochs, and at the end."""
    period = run.cfg.train.saveckp_iterations or run.cfg.train.saveckp_freq * run.schedules.epoch_length
    return (iteration + 1) % period == 0 or iteration + 1 == run.schedules.total


def save(run: Run, metrics: MetricsLog | None, completed: int) -> None:
    """Write a checkpoint, after every loss up to here has been seen to be finite."""
    report(run, metrics, run.watch.pop(everything=True))
    gc.collect()
    run.checkpointer.save(completed, {"global_batch": run.data.global_batch, "seed": run.cfg.train.seed})


def evaluate(run: Run, iteration: int) -> None:
    """Probe the teacher every `eval_period_iterations`, and keep the best one."""
    if not probes_are_configured(run.cfg) or (iteration + 1) % run.cfg.evaluation.eval_period_iterations:
        return
    from prostate_ssl.evaluation.periodic import evaluate_teacher

    evaluate_teacher(run.cfg, run.networks, run.session, run.folder, iteration)
