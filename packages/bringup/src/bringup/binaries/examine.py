"""One file's bytes → what it carries. The first bytes decide what it is, not its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from bringup.binaries import ar, elf, fatbin, pe
from bringup.binaries.architectures import Architecture
from bringup.binaries.elf_symbols import undefined_symbols
from bringup.binaries.fatbin import (
    EntryKind,
    FatbinContainer,
    FatbinEntry,
    damaged_sections,
    read_containers,
    read_sections,
)
from bringup.binaries.model import BinaryReport, CudaRuntime
from bringup.binaries.source import Damaged, Source

# nvcc's linked code stands in the first; the second holds code that is still to be linked.
_LINKED, _TO_LINK = ".nv_fatbin", "__nv_relfatbin"
# Very large libraries keep containers among other data. Beside an empty one in `.nv_fatbin` cuFFT 12.0 has
# 24,000 in `.ldata`, the data of the large code model; cuBLASLt 13 has 96 MB of tables there and no
# container: a section without one near its beginning is left alone. cuFFT 12.5 has no `.nv_fatbin`, but
# 18,000 in `.data`, and 12 behind 11 MB of tables in `.ldata`.
_LARGE_DATA, _DATA, _BEGINNING = ".ldata", ".data", 1 << 20
_TORCH_LIBRARY = re.compile(
    r"(lib)?(torch(_cpu|_cuda|_hip|_xpu|_python|_cuda_cu|_cuda_cpp|_cuda_linalg|_nvshmem|_global_deps)?"
    r"|c10(_cuda|_hip)?|caffe2\w*)(\.so[\d.]*|\.dll|\.dylib)",
    re.IGNORECASE,
)
# auditwheel puts eight digits of a hash into the name of what it copies: libcudart-5a077122.so.12.0.107.
_RUNTIME = re.compile(
    r"(?:lib)?cudart(?:64)?(?:-[0-9a-f]{8})?(?:\.so\.|_)?(\d+)?[\d.]*(?:\.so|\.dll)?", re.IGNORECASE
)
_TORCH_SYMBOL = re.compile(r"_ZNK?(?:St\w*)?(?:3c10|2at|5torch)|aoti_torch_|torch_(?:call|library|new)_")
_COMPILER_NOTE = ".note.nv.tkinfo"
_NOTE_ARCHITECTURE = re.compile(rb"-arch[ =](?:sm|compute)_(\d{2,3})([af]?)\b")
_LARGEST_NOTE = 64 << 10
_PTX_TARGET = re.compile(rb"^\s*\.target\s+(?:sm_|compute_)(\d+)([af]?)\b", re.MULTILINE)
_PTX_VERSION = re.compile(rb"^\s*\.version\s+(\d+)\.(\d+)", re.MULTILINE)
_PTX_HEAD = 64 << 10


def looks_scannable(head: bytes) -> bool:
    """Whether the first 8 bytes are those of a format that is read here (PTX text is known by its name)."""
    return head.startswith((elf.MAGIC, pe.MAGIC, fatbin.MAGIC_BYTES, ar.MAGIC))


def examine(source: Source, path: str) -> BinaryReport:
    """What the bytes carry.

    Args:
        path: only for the report, and to tell PTX text and torch's own libraries.

    Raises:
        Damaged: they are of no known format, or broken.
    """
    head = source.read(0, 8)
    if head.startswith(elf.MAGIC):
        return _elf(source, path)
    if head.startswith(pe.MAGIC):
        return _pe(source, path)
    if head.startswith(fatbin.MAGIC_BYTES):
        return _report(path, "fatbin", source, tuple(read_containers(source)))
    if head.startswith(ar.MAGIC):
        return _static_library(source, path)
    if path.lower().endswith(".ptx"):
        return _ptx(source, path)
    if not head:
        raise Damaged("empty")
    raise Damaged("no shared object, Windows library, fat binary or other file that is read here")


def _report(
    path: str,
    kind: str,
    source: Source,
    containers: tuple[FatbinContainer, ...],
    damage: str | None = None,
    **more: object,
) -> BinaryReport:
    damage = damage or next((container.damage for container in containers if container.damage), None)
    build: Callable[..., BinaryReport] = BinaryReport
    return build(path=path, kind=kind, containers=containers, size=source.size, damage=damage, **more)


def _name(path: str) -> str:
    return re.split(r"[/\\!]", path)[-1]


def _elf(source: Source, path: str) -> BinaryReport:
    facts = elf.read_elf(source)
    if facts.machine == "cuda":
        return _cubin(source, path, facts)
    containers, to_link = _elf_containers(source, facts)
    return _report(
        path,
        "object" if facts.relocatable else "elf",
        source,
        containers,
        _elf_damage(source, facts),
        relocatable=to_link,
        machine=facts.machine,
        needed=facts.needed,
        soname=facts.soname,
        rpath=facts.rpath,
        runpath=facts.runpath,
        versions=facts.versions,
        cuda_runtime=_elf_runtime(source, facts, bool(containers)),
        torch_extension=_is_torch_extension(source, facts, path, bool(containers)),
    )


def _elf_containers(source: Source, facts: elf.ElfFacts) -> tuple[tuple[FatbinContainer, ...], bool]:
    """The linked fat binaries; where there are none, those still to be linked; where none, those in data."""
    linked = [(part.offset, part.size) for part in facts.named(_LINKED)]
    for start, size in _aligned(facts, _LARGE_DATA) if linked else ():
        if fatbin.MAGIC_BYTES in source.read(start, min(size, _BEGINNING)):
            linked.append((start, size))
    to_link = [(part.offset, part.size) for part in facts.named(_TO_LINK)]
    for parts, relocatable in ((linked, False), (to_link, True)):
        found = read_sections(source, parts)
        if found:
            return found, relocatable
    if any(size for _, size in (*linked, *to_link)) or facts.relocatable:
        return (), False
    data = (*_aligned(facts, _LARGE_DATA), *_aligned(facts, _DATA))
    return read_sections(source, [part for part in data if _begins_whole(source, *part)]), False


def _aligned(facts: elf.ElfFacts, name: str) -> Iterator[tuple[int, int]]:
    """Offset and size of these sections from where a container may stand.

    Containers are aligned in memory, and the file's pages are those of the memory.
    """
    for part in facts.named(name):
        padding = -part.offset % 8
        yield part.offset + padding, max(0, part.size - padding)


def _begins_whole(source: Source, start: int, size: int) -> bool:
    """Whether the first thing with a container's magic is one: among data the four bytes may be a number."""
    first = next(read_containers(source, start, size), None)
    return first is not None and bool(first.entries) and first.damage is None


def _elf_damage(source: Source, facts: elf.ElfFacts) -> str | None:
    """Both kinds of section are asked: where one is destroyed, the other's containers tell only a part."""
    parts = ((name, part) for name in (_LINKED, _TO_LINK) for part in facts.named(name))
    return damaged_sections(source, ((name, part.offset, part.size) for name, part in parts))


def runtime_of(needed: tuple[str, ...]) -> CudaRuntime | None:
    """The CUDA runtime library among the needed ones."""
    for library in needed:
        match = _RUNTIME.match(library)
        if match and "cudart" in library.lower():
            number = int(match[1]) if match[1] else None
            # CUDA 10 and 11 wrote the minor version into the name on Windows: cudart64_110.dll.
            major = number // 10 if number is not None and number >= 90 else number
            return CudaRuntime(library, major, "shared")
    return None


def _elf_runtime(source: Source, facts: elf.ElfFacts, device_code: bool) -> CudaRuntime | None:
    shared = runtime_of(facts.needed)
    if shared or not device_code or facts.relocatable:
        return shared
    undefined = {symbol.name for symbol in undefined_symbols(source, facts)}
    if any(name.startswith("__cudaRegister") for name in undefined):
        return None  # Another library of the process brings the runtime.
    if facts.typed(elf.SHT_DYNSYM) is None:
        return None
    return CudaRuntime(None, None, "static")


def _is_torch_extension(source: Source, facts: elf.ElfFacts, path: str, device_code: bool) -> bool:
    if _TORCH_LIBRARY.fullmatch(facts.soname or "") or _TORCH_LIBRARY.fullmatch(_name(path)):
        return False
    if re.search(r"(^|[/!])torch/(lib|bin|_C)", path.replace("\\", "/")):
        return False
    if any(_TORCH_LIBRARY.fullmatch(library) for library in facts.needed):
        return True
    # A few are linked without torch's libraries and find their symbols in the process.
    return device_code and any(_TORCH_SYMBOL.match(s.name) for s in undefined_symbols(source, facts))


def _cubin(source: Source, path: str, facts: elf.ElfFacts) -> BinaryReport:
    entry = FatbinEntry(EntryKind.MACHINE_CODE, _cubin_architecture(source, facts), source.size, 0, None)
    return _report(path, "cubin", source, (FatbinContainer(0, (entry,)),))


def _cubin_architecture(source: Source, facts: elf.ElfFacts) -> Architecture:
    """The architecture of a bare cubin.

    The flags of nvcc 13 have the same number for 100, 100a and 100f; the note that the compiler leaves
    repeats its command line. Flags: from ABI version 8 on the number stands a byte higher than before.

    Raises:
        Damaged: it stands in neither.
    """
    for section in facts.named(_COMPILER_NOTE):
        told = _NOTE_ARCHITECTURE.search(source.read(section.offset, min(section.size, _LARGEST_NOTE)))
        if told:
            return Architecture(int(told[1]), told[2].decode())
    number = facts.flags >> 8 & 0xFF if facts.abi_version >= 8 else facts.flags & 0xFF
    if number < 10:
        raise Damaged(f"a cubin with the flags {facts.flags:#x}, which name no architecture")
    return Architecture(number)


def _ptx(source: Source, path: str) -> BinaryReport:
    text = source.read(0, _PTX_HEAD)
    target, version = _PTX_TARGET.search(text), _PTX_VERSION.search(text)
    if not target or len(target[1]) > 3 or not version:
        raise Damaged("no PTX: .version or .target is missing")
    architecture = Architecture(int(target[1]), target[2].decode())
    isa = (int(version[1][:4]), int(version[2][:4]))
    entry = FatbinEntry(EntryKind.PTX, architecture, source.size, 0, isa)
    return _report(path, "ptx", source, (FatbinContainer(0, (entry,)),))


def _pe(source: Source, path: str) -> BinaryReport:
    facts = pe.read_pe(source)
    containers = read_sections(source, ((part.offset, part.size) for part in facts.fatbin_sections()))
    own = _TORCH_LIBRARY.fullmatch(_name(path)) or re.search(r"(^|[/\\!])torch[/\\]lib[/\\]", path)
    runtime = runtime_of(facts.needed)
    if runtime is None and containers and not any(name.lower() == "torch_cuda.dll" for name in facts.needed):
        runtime = CudaRuntime(None, None, "static")
    return _report(
        path,
        "pe",
        source,
        containers,
        # `.nvFatBinSegment`, cut to eight letters, holds only pointers.
        damaged_sections(
            source,
            (
                (part.name, part.offset, part.size)
                for part in facts.fatbin_sections()
                if part.name != ".nvFatBi"
            ),
        ),
        machine=facts.machine,
        needed=facts.needed,
        cuda_runtime=runtime,
        torch_extension=not own and any(_TORCH_LIBRARY.fullmatch(name) for name in facts.needed),
    )


def _static_library(source: Source, path: str) -> BinaryReport:
    containers: list[FatbinContainer] = []
    machine = damage = None
    room = fatbin.MOST_ENTRIES
    for member in ar.members(source):
        if member.read(0, 4) != elf.MAGIC:
            continue
        facts = elf.read_elf(member)
        machine = machine or facts.machine
        damage = damage or _elf_damage(member, facts)
        found = _elf_containers(member, facts)[0]
        containers += found
        room -= sum(1 + len(container.entries) for container in found)
        if room < 0:
            raise Damaged(f"more than {fatbin.MOST_ENTRIES} containers in its fat binaries")
    return _report(
        path, "static-library", source, tuple(containers), damage, relocatable=True, machine=machine
    )
