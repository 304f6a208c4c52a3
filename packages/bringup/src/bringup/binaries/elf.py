"""The parts of an ELF file that say what it carries and needs. pyelftools reads; limits are kept here.

Source: Tool Interface Standard (TIS) ELF Specification 1.2; Generic ABI, «Dynamic linking».
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

FATBIN_SECTIONS = (".nv_fatbin", "__nv_relfatbin")
_MOST_SECTIONS = 65_536


@dataclass(frozen=True)
class Section:
    """Name, offset in the file and size, in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class ElfFacts:
    """What the loader reads of a shared object.

    Attributes:
        machine: "EM_X86_64", "EM_AARCH64", "EM_CUDA", …
        needed: DT_NEEDED, in order. rpath, runpath: as they are written, `$ORIGIN` and all.
    """

    machine: str
    sections: tuple[Section, ...]
    needed: tuple[str, ...]
    soname: str | None
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]

    def fatbin_sections(self) -> tuple[Section, ...]:
        """Sections that hold fat binaries."""
        return tuple(section for section in self.sections if section.name in FATBIN_SECTIONS)


# What a parser of hostile bytes may raise; all of it means «damaged».
_DAMAGE = (
    *(ELFError, AssertionError, ArithmeticError, AttributeError, LookupError, MemoryError, OSError),
    *(RecursionError, TypeError, ValueError),
)


class NotElf(ValueError):
    """The file is no ELF file, or is damaged; the text says how."""


def read_elf(stream: BinaryIO) -> ElfFacts:
    """Read headers, section table and dynamic section.

    Raises:
        NotElf: whatever is wrong with the bytes.
    """
    try:
        elf = ELFFile(stream)
        if elf.num_sections() > _MOST_SECTIONS:
            raise NotElf(f"{elf.num_sections()} sections")
        sections = []
        needed: list[str] = []
        soname: str | None = None
        rpath: list[str] = []
        runpath: list[str] = []
        for section in elf.iter_sections():
            if section["sh_type"] != "SHT_NOBITS":
                sections.append(Section(section.name, section["sh_offset"], section["sh_size"]))
            if isinstance(section, DynamicSection):
                # pyelftools adds these attributes at run time.
                tag: Any
                for tag in section.iter_tags():
                    kind = tag.entry.d_tag
                    if kind == "DT_NEEDED":
                        needed.append(str(tag.needed))
                    elif kind == "DT_SONAME":
                        soname = str(tag.soname)
                    elif kind == "DT_RPATH":
                        rpath += str(tag.rpath).split(":")
                    elif kind == "DT_RUNPATH":
                        runpath += str(tag.runpath).split(":")
        return ElfFacts(
            str(elf["e_machine"]), tuple(sections), tuple(needed), soname, tuple(rpath), tuple(runpath)
        )
    except NotElf:
        raise
    except _DAMAGE as error:
        raise NotElf(f"{type(error).__name__}: {error}") from error
