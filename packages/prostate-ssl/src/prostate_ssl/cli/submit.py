"""`prostate-ssl submit`: the same training as a Slurm job."""

from __future__ import annotations

from typing import Annotated

import typer

from prostate_ssl.cli.configuration import configured

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": False}


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value …", show_default=False)
    ] = None,
    config_file: Annotated[
        str, typer.Option("--config-file", help="YAML file, or the name of a preset.")
    ] = "prostate_vitb14_mm-dino",
    output_dir: Annotated[
        str, typer.Option("--output-dir", "--output_dir", help="Where the run lies; all nodes see it.")
    ] = "",
    data: Annotated[str, typer.Option("--data", help="Folder of cases; sets root= of the dataset.")] = "",
    split_csv: Annotated[str, typer.Option("--split-csv", help="List of the patients to train on.")] = "",
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Start anew.")] = False,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", "--ngpus", min=0, help="GPUs a node; 0: on CPUs.")] = 1,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="CPU cores a GPU.")] = 10,
    memory: Annotated[float, typer.Option("--mem", min=0, help="GB of memory a node.")] = 0,
    hours: Annotated[float, typer.Option("--hours", min=0.02, help="Time limit, then requeued.")] = 24.0,
    partition: Annotated[str, typer.Option("--partition", help="Slurm's partition.")] = "",
    account: Annotated[str, typer.Option("--account", help="Slurm's account.")] = "",
    qos: Annotated[str, typer.Option("--qos", help="Slurm's quality of service.")] = "",
    constraint: Annotated[str, typer.Option("--constraint", help="Slurm's constraint.")] = "",
    setup: Annotated[
        list[str] | None, typer.Option("--setup", help="Shell line before the start; may be repeated.")
    ] = None,
    cluster: Annotated[str, typer.Option("--cluster", help="slurm, or local: on this machine.")] = "slurm",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the job script; submit nothing.")] = False,
) -> int:
    """Queue a pre-training with Slurm: one process a GPU, requeued from its checkpoint at the time limit."""
    from prostate_ssl.config.loading import scaled_learning_rate
    from prostate_ssl.errors import ProstateError
    from prostate_ssl.training.feed import training_dataset_string
    from prostate_ssl.training.slurm import (
        Resources,
        job_script,
        jobs_folder,
        log_files,
        require_submitit,
        submit,
    )

    if cluster not in ("slurm", "local"):
        raise ProstateError(f"--cluster {cluster}: slurm or local.", 2)
    # What is wrong with the configuration is said here, not after hours in the queue.
    cfg = configured(config_file, overrides or [], output_dir=output_dir, data=data, split_csv=split_csv)
    training_dataset_string(cfg)
    resources = Resources(
        nodes, gpus, cpus, memory, hours, partition, account, qos, constraint, tuple(setup or ())
    )
    ranks = nodes * resources.tasks
    shown = f"{nodes} nodes × {resources.tasks} processes, total batch {ranks * cfg.train.batch_size_per_gpu}"
    shown += f", learning rate {scaled_learning_rate(cfg, ranks):.3g}"
    if dry_run:
        require_submitit()
        print(job_script(resources, jobs_folder(cfg)))
        print(f"# {shown}; nothing was submitted.")
        return 0
    job = submit(cfg, resources, resume=not no_resume, local=cluster == "local")
    print(f"Job {job.job_id}: {shown}.")
    print(f"Log: {log_files(jobs_folder(cfg), job.job_id, 1)[0]}")
    return 0
