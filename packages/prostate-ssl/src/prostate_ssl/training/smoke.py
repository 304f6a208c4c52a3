"""Five steps on a few cases, to see that everything fits before the long run is started."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from prostate_ssl.config import load_config
from prostate_ssl.config.dataset_string import with_options
from prostate_ssl.config.loading import epoch_length, literal
from prostate_ssl.data import discover_cases
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.errors import ProstateError
from prostate_ssl.files import absolute
from prostate_ssl.training.gradients import step_stream
from prostate_ssl.training.memory import GIB, predicted_peak
from prostate_ssl.training.session import open_session
from prostate_ssl.training.trainer import prepare, step

STEPS = 5


@dataclass(frozen=True)
class SmokeResult:
    """What the five steps showed, and what it means for the whole run.

    Attributes:
        losses: total loss of each step.
        seconds: median seconds of a step, the first left out.
        predicted_gib: memory of the whole run's steps on a GPU.
        predicted_hours: duration of the whole run on this machine.
        iterations: of the whole run.
    """

    losses: list[float]
    seconds: float
    predicted_gib: float
    predicted_hours: float
    iterations: int


def smoke_test(config_file: str = "", data: str = "", overrides: tuple[str, ...] = ()) -> SmokeResult:
    """Train five steps with a batch of at most two on the given cases, or on four phantoms; print each loss.

    Args:
        config_file: configuration of the run to come; default the published preset on a GPU, `demo` without.
        data: folder of cases; empty: phantoms in a temporary folder.
        overrides: `section.key=value`.

    Raises:
        ProstateError: unusable data or configuration, a loss that is no number.
    """
    name = config_file or ("prostate_vitb14_mm-dino" if torch.cuda.is_available() else "demo")
    full = load_config(name, list(overrides))
    with tempfile.TemporaryDirectory() as folder:
        if not data:
            data = f"{folder}/phantoms"
            write_phantoms(Path(data), 4, PhantomSettings())
        cases = len(discover_cases(Path(data)))
        cfg = _shortened(full, data, folder)
        losses, times = _steps(cfg, Path(folder))
    batch = cfg.train.batch_size_per_gpu
    iterations = full.optim.epochs * epoch_length(full, cases, 1)
    seconds = sorted(times[1:])[len(times[1:]) // 2]
    # A step's time grows with its batch.
    hours = seconds * full.train.batch_size_per_gpu / batch * iterations / 3600
    return SmokeResult(losses, seconds, predicted_peak(full), hours, iterations)


def _shortened(full: DictConfig, data: str, folder: str) -> DictConfig:
    cfg = full.copy()
    cfg.train.dataset_path = literal(
        with_options(full.train.dataset_path, root=absolute(data), split_csv="none")
    )
    cfg.train.output_dir = literal(f"{folder}/run")
    cfg.train.batch_size_per_gpu = min(full.train.batch_size_per_gpu, 2)
    cfg.train.num_workers = 0
    cfg.train.OFFICIAL_EPOCH_LENGTH = STEPS
    cfg.train.compile = "false"
    cfg.optim.epochs, cfg.optim.warmup_epochs = 1, 0
    return cfg


def _steps(cfg: DictConfig, folder: Path) -> tuple[list[float], list[float]]:
    losses, times = [], []
    with open_session(cfg) as session, step_stream(cfg, session):
        run = prepare(cfg, session, folder, resume=False, announce=False)
        batches = run.data.batches(0)
        for index in range(STEPS):
            begun = time.perf_counter()
            loss = float(step(run, index, next(batches))["total_loss"])
            times.append(time.perf_counter() - begun)
            losses.append(loss)
            print(f"[step {index}] loss={loss:.4f}")
            if loss != loss:
                raise ProstateError(
                    f"NaN detected in loss at step {index}: look at the cases (prostate-ssl check)."
                )
        run.gradients.release()
        if session.device.type == "cuda":
            print(f"Peak memory of these steps: {torch.cuda.max_memory_allocated() / GIB:.1f} GiB.")
    return losses, times


def run_smoke_test(config_file: str = "", data: str = "", overrides: tuple[str, ...] = ()) -> int:
    """`smoke_test` with the published last line, then the prediction for the whole run."""
    result = smoke_test(config_file, data, overrides)
    print("Smoke test completed without runtime errors.")
    print(
        f"The whole run: {result.iterations} iterations, about {result.predicted_hours:.2g} h here (not "
        f"compiled, data not cached), about {result.predicted_gib:.1f} GiB of GPU memory."
    )
    return 0
