"""Slurm, through submitit: one task a GPU; a job whose time is up saves, is requeued and goes on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prostate_ssl.errors import ProstateError


@dataclass(frozen=True)
class Resources:
    """What a job asks the scheduler for.

    Attributes:
        nodes, gpus: nodes, and GPUs of each; every GPU gets a process. 0 GPUs: one process a node, on CPUs.
        cpus: CPU cores a process.
        memory_gb: of a node; 0 leaves it to the cluster.
        hours: time limit of one stretch; the job is requeued when it is reached.
        partition, account, qos, constraint: as Slurm knows them; empty: not given.
        setup: shell lines before the start, for example `module load cuda`.
    """

    nodes: int = 1
    gpus: int = 1
    cpus: int = 10
    memory_gb: float = 0
    hours: float = 24.0
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: tuple[str, ...] = ()

    @property
    def tasks(self) -> int:
        """Processes a node."""
        return max(1, self.gpus)

    def parameters(self) -> dict[str, Any]:
        """The names of sbatch's options, as submitit takes them."""
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus_per_node": self.gpus,
            "mem": f"{round(self.memory_gb * 1024)}M" if self.memory_gb else "",
            "setup": list(self.setup),
        }
        return {
            "job_name": "prostate-ssl",
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks,
            "cpus_per_task": self.cpus,
            "time": max(1, round(60 * self.hours)),
            # Without it the other ranks of one that failed would wait for it until a timeout.
            "srun_args": ["--kill-on-bad-exit=1"],
            **{name: value for name, value in named.items() if value},
        }


@dataclass(frozen=True)
class TrainJob:
    """What runs in every task of the job. Plain data, so that it can be sent.

    Attributes:
        config: the complete configuration.
        resume: False starts anew, on the first stretch only.
    """

    config: dict[str, Any]
    resume: bool = True

    def __call__(self) -> int:
        """Train until done or stopped. Returns the iterations that are done."""
        from submitit.helpers import TorchDistributedEnvironment

        from prostate_ssl.training.trainer import train

        # Each rank chooses its GPU by LOCAL_RANK; hiding the others would leave it only number 0.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        outcome = train(OmegaConf.create(self.config), resume=self.resume)
        if outcome.stopped_by in (signal.SIGUSR1, signal.SIGUSR2):
            # The trainer has saved and given the signal back: submitit's handler now requeues the job.
            signal.raise_signal(outcome.stopped_by)
        return outcome.completed

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same job, going on from the last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(TrainJob(self.config, resume=True))


def job_script(resources: Resources, folder: Path) -> str:
    """The sbatch script of a job that would keep its files in `folder`."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{sys.executable} -u -m submitit.core._submit {folder}"
    return str(_make_sbatch_string(command, folder, **resources.parameters()))


def submit(cfg: DictConfig, resources: Resources, *, resume: bool = True, local: bool = False) -> Any:
    """Queue a training.

    Args:
        cfg: complete configuration; its output folder must be seen by all nodes.
        resources: of the job.
        resume: False starts anew.
        local: run it on this machine through submitit instead, to try the path without a scheduler.

    Returns:
        submitit's job.

    Raises:
        ProstateError: submitit or Slurm is missing; several nodes with `local`.
    """
    require_submitit()
    import submitit

    folder = jobs_folder(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    if local:
        if resources.nodes > 1:
            raise ProstateError("--cluster local has one node.", 2)
        executor: Any = submitit.LocalExecutor(folder)
        executor.update_parameters(
            nodes=1,
            tasks_per_node=resources.tasks,
            gpus_per_node=resources.gpus,
            timeout_min=max(1, round(60 * resources.hours)),
        )
    else:
        if not submitit.SlurmExecutor.affinity() > 0:
            raise ProstateError(
                "There is no Slurm here: `srun` is not on PATH. Call this on a login node of the cluster, or "
                "start the training with torchrun (docs/prostate-ssl/training.md)."
            )
        executor = submitit.SlurmExecutor(folder)
        executor.update_parameters(**resources.parameters())
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    return executor.submit(TrainJob({str(k): v for k, v in plain.items()}, resume))


def jobs_folder(cfg: DictConfig) -> Path:
    """Where submitit keeps a run's scripts, pickles and logs."""
    return Path(cfg.train.output_dir) / "slurm"


def require_submitit() -> None:
    """Raises:
    ProstateError: submitit is not installed.
    """
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise ProstateError("Slurm jobs need submitit: pip install 'prostate-ssl[slurm]'.") from error


def log_files(folder: Path, job_id: str, tasks: int) -> Sequence[Path]:
    """Standard output of every task of a job."""
    return [folder / f"{job_id}_{task}_log.out" for task in range(tasks)]
