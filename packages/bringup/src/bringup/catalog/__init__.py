"""What the world offers: GPUs, toolkits, torch builds, extensions. TOML data, each row with its source."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.binaries.architectures import Architecture, ComputeCapability
from bringup.binaries.compatibility import carries, machine_code_runs
from bringup.catalog.gpu_names import find_gpu, known_capabilities
from bringup.catalog.schema import (
    Companion,
    DriverMinimum,
    EngineBuild,
    Extension,
    Gpu,
    Library,
    Toolkit,
    TorchBuild,
    TorchSource,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Catalog", "load"]


@dataclass(frozen=True)
class Catalog:
    """All tables, checked."""

    torch_builds: tuple[TorchBuild, ...]
    drivers: tuple[DriverMinimum, ...]
    gpus: tuple[Gpu, ...]
    extensions: tuple[Extension, ...]
    toolkits: tuple[Toolkit, ...]
    libraries: tuple[Library, ...] = ()
    engines: tuple[EngineBuild, ...] = ()
    torch_sources: tuple[TorchSource, ...] = ()
    companions: tuple[Companion, ...] = ()

    def toolkit(self, version: str) -> Toolkit | None:
        """The toolkit "12.8", also when asked for as "12.8.93"; None where the catalog does not know it."""
        release = ".".join(version.split(".")[:2])
        return next((row for row in self.toolkits if row.version == release), None)

    def extension(self, name: str) -> Extension | None:
        """The extension of this distribution name, however it is spelled."""
        key = canonicalize_name(name)
        return next((row for row in self.extensions if row.name == key), None)

    def companion(self, name: str, version: Version) -> Companion | None:
        """What a release of this distribution was built for, where its METADATA do not say."""
        rows = (row for row in self.companions if row.name == canonicalize_name(name))
        return next((row for row in rows if SpecifierSet(row.versions).contains(version)), None)

    def default_cuda(self, torch: str) -> str | None:
        """The CUDA of the build that the package index has of this torch release."""
        return next((row.cuda for row in self.torch_builds if row.version == torch and not row.index), None)

    def portable_replacement(self, name: str) -> bool:
        """Whether portable-kernels has a shim in place of this distribution."""
        row = self.extension(name)
        return row is not None and row.portable is not None

    def library(self, soname: str, cuda: int | None = None) -> Library | None:
        """What brings a shared library; `cuda`: the major version that is asked for, where known."""
        rows = [row for row in self.libraries if re.fullmatch(row.soname, soname)]
        return next((row for row in rows if row.cuda == cuda), rows[0] if rows else None)

    def find_gpu(self, text: str) -> tuple[str, ComputeCapability]:
        """Name and compute capability of what a person calls a GPU: «RTX 5090», «5070 Ti», sm_120, 12.0.

        Raises:
            BringupError: `unknown-gpu`, with the nearest name; `unknown-capability`: no chip has it, nor
                will the next ones; `gpu-of-another-vendor`.
        """
        return find_gpu(text, self.gpus, self.toolkits)

    def knows(self, capability: ComputeCapability) -> bool:
        """Whether there is such a chip; a later one may come with a capability beyond those known."""
        return capability in known_capabilities(self.gpus, self.toolkits)

    def torch_runs_on(
        self, build: TorchBuild, capability: ComputeCapability, platform: str | None = None
    ) -> bool:
        """Whether the build carries machine code or PTX that this chip can use; None: on any platform."""
        platforms = build.platforms if platform is None else (platform,)
        return any(
            carries(
                [Architecture.parse(name) for name in build.machine_code_on(one)],
                [Architecture.parse(name) for name in build.ptx_on(one)],
                capability,
            )
            for one in platforms
        )

    def compiles_for(self, toolkit: Toolkit, capability: ComputeCapability) -> bool:
        """Whether this toolkit makes machine code that the chip executes."""
        plain = (Architecture.parse(name) for name in toolkit.architectures if name[-1].isdigit())
        return any(machine_code_runs(code, capability) for code in plain)

    def offered_toolkit(self, capability: ComputeCapability, cuda: str) -> Toolkit | None:
        """The offered toolkit that builds for a chip: this CUDA's, or the newest of its major, or of all."""
        serving = [row for row in self.toolkits if row.offered and self.compiles_for(row, capability)]
        wanted = Version(cuda)

        def fitness(row: Toolkit) -> tuple[bool, bool, Version]:
            version = Version(row.version)
            return version.major == wanted.major, version == wanted, version

        return max(serving, key=fitness, default=None)

    def recommended_torch(
        self, capability: ComputeCapability | None, python: str | None = None
    ) -> TorchBuild | None:
        """The newest build that serves a chip and a Python, one whose binary was read before the others."""
        serving = [
            build
            for build in self.torch_builds
            if build.cuda
            and (capability is None or self.torch_runs_on(build, capability))
            and (python is None or SpecifierSet(build.python).contains(python))
        ]
        return max(serving, key=lambda build: (build.verified, Version(build.version)), default=None)

    def engine_with_machine_code(self, name: str, capability: ComputeCapability) -> EngineBuild | None:
        """The newest wheel of an engine that carries machine code for a chip; None: none is known."""
        serving = [
            row
            for row in self.engines
            if row.name == name
            and carries([Architecture.parse(code) for code in row.machine_code], [], capability)
        ]
        return max(serving, key=lambda row: Version(row.version), default=None)

    def minimum_driver(self, cuda: str, windows: bool) -> str | None:
        """Oldest driver for programs of this CUDA version; None where the catalog does not know."""
        major = int(cuda.split(".")[0])
        row = next((row for row in self.drivers if row.cuda_major == major), None)
        if row is None:
            return None
        return row.windows if windows else row.linux


def _table(file: str, name: str) -> list[dict[str, Any]]:
    text = (resources.files(__package__) / "data" / file).read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)[name]
    return rows


@cache
def load() -> Catalog:
    """Read and check the packaged data."""
    return Catalog(
        torch_builds=tuple(TorchBuild.model_validate(row) for row in _table("torch.toml", "torch_builds")),
        drivers=tuple(DriverMinimum.model_validate(row) for row in _table("drivers.toml", "drivers")),
        gpus=tuple(Gpu.model_validate(row) for row in _table("gpus.toml", "gpus")),
        extensions=tuple(Extension.model_validate(row) for row in _table("extensions.toml", "extensions")),
        toolkits=tuple(Toolkit.model_validate(row) for row in _table("toolkits.toml", "toolkits")),
        libraries=tuple(Library.model_validate(row) for row in _table("libraries.toml", "libraries")),
        engines=tuple(EngineBuild.model_validate(row) for row in _table("engines.toml", "engines")),
        companions=tuple(Companion.model_validate(row) for row in _table("companions.toml", "companions")),
        torch_sources=tuple(
            TorchSource.model_validate(row) for row in _table("torch_sources.toml", "torch_sources")
        ),
    )
