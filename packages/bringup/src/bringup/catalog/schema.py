"""The catalog's rows. Every row names its source; `verified` says whether a binary was read to check it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CudaVersion = Annotated[str, Field(pattern=r"^\d+\.\d+$")]
MachineCode = Annotated[str, Field(pattern=r"^sm_\d{2,3}[af]?$")]
Ptx = Annotated[str, Field(pattern=r"^compute_\d{2,3}[af]?$")]


class Row(BaseModel):
    """Base of all rows.

    Attributes:
        source: the document or binary that the row was taken from.
        verified: a published binary was read and agrees.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    verified: bool = False


class TorchBuild(Row):
    """One build of one torch release.

    Attributes:
        cuda: the CUDA that it was built with, None for a CPU build.
        local: its local version label, "cu128" or "cpu"; the package index's default build has none.
        index: PyTorch's own wheel index that carries it; None: the default build of the package index.
        machine_code, ptx: in every counting container of its libraries, as published for x86_64 Linux.
        machine_code_aarch64: the same for aarch64 Linux, whose wheels are built for other chips, without PTX.
        python: range of Python versions with wheels.
    """

    version: str
    cuda: CudaVersion | None = None
    local: str
    index: str | None = None
    machine_code: tuple[MachineCode, ...] = ()
    ptx: tuple[Ptx, ...] = ()
    machine_code_aarch64: tuple[MachineCode, ...] = ()
    python: str
    platforms: tuple[str, ...]
    torchvision: str | None = None
    torchaudio: str | None = None

    def machine_code_on(self, platform: str) -> tuple[str, ...]:
        return self.machine_code_aarch64 if platform.endswith("aarch64") else self.machine_code

    def ptx_on(self, platform: str) -> tuple[str, ...]:
        return () if platform.endswith("aarch64") else self.ptx


class TorchSource(Row):
    """The commit of PyTorch's repository that a release was built from."""

    version: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class DriverMinimum(Row):
    """The oldest driver that runs programs of a CUDA major version (minor-version compatibility)."""

    cuda_major: int
    linux: str
    windows: str


class Toolkit(Row):
    """One release of the CUDA toolkit.

    Attributes:
        architectures: all that its nvcc builds machine code for, with the suffixes.
        ptx_isa: the newest PTX ISA version that it writes.
        gcc_min, gcc_max: oldest supported and newest accepted (host_config.h) major version of gcc.
        driver_linux, driver_windows: the oldest that runs its programs (minor-version compatibility).
        offered: `bringup toolkit install` installs it or prints the ways to it.
    """

    version: CudaVersion
    offered: bool = False
    architectures: tuple[MachineCode, ...]
    ptx_isa: CudaVersion
    gcc_min: int
    gcc_max: int
    driver_linux: str
    driver_windows: str


class Gpu(Row):
    """One marketing name and the compute capability of its chip."""

    name: str
    capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]


class Extension(Row):
    """A compiled extension that research code uses.

    Attributes:
        name: of the distribution, as PEP 503 compares it. `imports`: its top-level modules.
        portable: the shim of portable-kernels that replaces it, None where there is none.
        portable_names: what the shim holds (modules, functions), where it is a part of the original alone.
        repository: where its source is. `wheels`: a find-links page with `{torch}` and `{cuda}`, if any.
        build: the command that builds it from source beside an installed torch.
        error_without_image: what it raises on a GPU that it carries no code for, where it does not look at
            what its launches return and so never says «no kernel image».
    """

    name: str
    imports: tuple[str, ...]
    portable: str | None = None
    portable_names: tuple[str, ...] = ()
    repository: str
    wheels: str | None = None
    build: str | None = None
    error_without_image: str = ""
    licence: str


class Companion(Row):
    """Wheels that declare less about torch than they were built for.

    Attributes:
        name: of the distribution, as PEP 503 compares it. `versions`: which of its releases.
        torch: range of torch releases that these wheels were built for.
        cuda: major version of the CUDA runtime that they link; None: none, or that of torch's default build.
    """

    name: str
    versions: str
    torch: str
    cuda: int | None = None


class Library(Row):
    """A shared library by its soname, and what brings it.

    Attributes:
        soname: regular expression that the whole soname matches.
        cuda: major version of the CUDA that this row is for, where several bear the same soname.
        wheel: requirement of the wheel that carries it, None where there is none.
        debian: package of Debian and Ubuntu that carries it.
        optional: what asks for it works without, and loses a back end or a codec.
        replaceable: what asks for it takes another by itself and loses nothing.
        replaceable_for: distributions, by the beginning of their names, of which that is true.
    """

    soname: str
    cuda: int | None = None
    wheel: str | None = None
    debian: str | None = None
    optional: bool = False
    replaceable: bool = False
    replaceable_for: tuple[str, ...] = ()


class EngineBuild(Row):
    """One wheel of TensorFlow, ONNX Runtime, CuPy or JAX's CUDA plugin.

    Attributes:
        name: of the distribution, as PEP 503 compares it.
        cuda: the CUDA that it was built for.
        machine_code, ptx: in every counting container of its GPU libraries.
    """

    name: str
    version: str
    cuda: CudaVersion
    machine_code: tuple[MachineCode, ...]
    ptx: tuple[Ptx, ...] = ()
