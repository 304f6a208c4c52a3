"""All facts about this machine in one reading."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bringup import state
from bringup.facts.gpus import GpuSurvey, read_gpus
from bringup.facts.host import DiskFacts, HostFacts, read_disk, read_host
from bringup.facts.indexes import IndexFacts, read_indexes
from bringup.facts.interpreters import Interpreter, find_interpreters


@dataclass(frozen=True)
class MachineFacts:
    """GPUs and driver, host, disk of the state folder, Python interpreters if asked, indexes."""

    gpus: GpuSurvey
    host: HostFacts
    disk: DiskFacts
    interpreters: tuple[Interpreter, ...]
    indexes: IndexFacts

    def to_json(self) -> dict[str, Any]:
        """Plain data; compute capabilities as "12.0"."""
        document = asdict(self)
        for row, gpu in zip(document["gpus"]["gpus"], self.gpus.gpus, strict=True):
            row["capability"] = str(gpu.capability)
        return document


def read_machine(state_folder: Path | None = None, interpreters: bool = True) -> MachineFacts:
    """Read everything; takes about a second, most of it asking interpreters and pip.

    Args:
        interpreters: also ask the interpreters of this machine, for those who mean to use one.
    """
    with ThreadPoolExecutor(1) as pool:
        indexes = pool.submit(read_indexes)
        return MachineFacts(
            gpus=read_gpus(),
            host=read_host(),
            disk=read_disk(state_folder or state.home()),
            interpreters=find_interpreters() if interpreters else (),
            indexes=indexes.result(),
        )
