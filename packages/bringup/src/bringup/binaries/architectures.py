"""GPU architectures and compute capabilities, and every way of spelling a list of them.

Source of the suffixes: CUDA C++ Programming Guide, «Feature availability»: `a` is architecture-specific,
`f` family-specific.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CAPABILITY = re.compile(r"(?:sm_?|compute_?)?(\d{1,2})[._]?(\d)", re.IGNORECASE)
_ARCHITECTURE = re.compile(r"(?:(sm|compute|lto)_?)?(\d{1,2})[._]?(\d)([af]?)", re.IGNORECASE)

# Names that torch's TORCH_CUDA_ARCH_LIST accepts beside numbers, and what they stand for.
_NAMED = {
    "kepler": "3.5+PTX",
    "kepler+tesla": "3.7",
    "maxwell": "5.0;5.2+PTX",
    "maxwell+tegra": "5.3",
    "pascal": "6.0;6.1+PTX",
    "volta": "7.0+PTX",
    "volta+tegra": "7.2",
    "turing": "7.5+PTX",
    "ampere": "8.0;8.6+PTX",
    "ampere+tegra": "8.7",
    "ada": "8.9+PTX",
    "hopper": "9.0+PTX",
    "blackwell": "10.0;10.3;12.0;12.1+PTX",
    "blackwell+tegra": "11.0",
}
# nvcc's spelling: arch names the virtual architecture that is compiled, code what is kept.
_GENCODE = re.compile(r"(?:-gencode[= ]|--generate-code[= ])?\s*arch=\w+,\s*code=\[?([\w,]+)\]?")


@dataclass(frozen=True, order=True)
class ComputeCapability:
    """What a chip is: 12.0 of a GeForce RTX 5090."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Read "12.0", "120", "sm_120" or "compute_120".

        Raises:
            ValueError: the text is none of these.
        """
        match = _CAPABILITY.fullmatch(text.strip())
        if not match:
            raise ValueError(f"{text!r} is no compute capability such as 12.0 or sm_120")
        return cls(int(match[1]), int(match[2]))

    @property
    def number(self) -> int:
        """120 for 12.0, as fat binaries and nvcc have it."""
        return self.major * 10 + self.minor

    @property
    def sm(self) -> str:
        """ "sm_120"."""
        return f"sm_{self.number}"

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, order=True)
class Architecture:
    """What code was compiled for: 120, 90a, 100f. `suffix` is "", "a" or "f"."""

    number: int
    suffix: str = ""

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read "sm_90a", "compute_120f", "8.6" or "120".

        Raises:
            ValueError: the text is none of these.
        """
        match = _ARCHITECTURE.fullmatch(text.strip())
        if not match:
            raise ValueError(f"{text!r} is no architecture such as sm_90a or compute_120")
        return cls(int(match[2]) * 10 + int(match[3]), match[4].lower())

    @property
    def capability(self) -> ComputeCapability:
        """The chip that it is named after."""
        return ComputeCapability(self.number // 10, self.number % 10)

    @property
    def sm(self) -> str:
        """Spelled as machine code: "sm_90a"."""
        return f"sm_{self.number}{self.suffix}"

    @property
    def compute(self) -> str:
        """Spelled as PTX: "compute_90a"."""
        return f"compute_{self.number}{self.suffix}"


@dataclass(frozen=True)
class ArchitectureList:
    """What a build is asked to make: machine code for some, PTX for some. Sorted, each once."""

    machine_code: tuple[Architecture, ...]
    ptx: tuple[Architecture, ...]

    @property
    def torch(self) -> str:
        """As TORCH_CUDA_ARCH_LIST: "8.6;12.0+PTX"."""
        items = [
            f"{code.capability}{code.suffix}" + ("+PTX" if code in self.ptx else "")
            for code in self.machine_code
        ]
        only_ptx = [code for code in self.ptx if code not in self.machine_code]
        return ";".join([*items, *(f"{code.capability}{code.suffix}+PTX" for code in only_ptx)])

    @property
    def cmake(self) -> str:
        """As CMAKE_CUDA_ARCHITECTURES: "86-real;120"."""
        items = []
        for code in sorted({*self.machine_code, *self.ptx}):
            kind = "" if code in self.ptx and code in self.machine_code else "-real"
            if code not in self.machine_code:
                kind = "-virtual"
            items.append(f"{code.number}{code.suffix}{kind}")
        return ";".join(items)


def parse_arch_list(text: str) -> ArchitectureList:
    """Read any spelling of an architecture list.

    TORCH_CUDA_ARCH_LIST ("7.5;8.6+PTX", "Hopper", "12.0a"), CMAKE_CUDA_ARCHITECTURES ("86-real;120"),
    nvcc's names ("sm_120,compute_120", "-gencode arch=compute_90a,code=sm_90a"); separated by semicolons,
    commas or spaces.

    Raises:
        ValueError: an item that is none of these, or an empty list.
    """
    code: set[Architecture] = set()
    ptx: set[Architecture] = set()
    for item in filter(None, re.split(r"[;,\s]+", _GENCODE.sub(r"\1", text))):
        for part in _NAMED.get(item.lower().removesuffix("+ptx"), item).split(";"):
            found = _item(part)
            code.update(found.machine_code)
            ptx.update(found.ptx)
    if not code and not ptx:
        raise ValueError("the list of architectures is empty")
    return ArchitectureList(tuple(sorted(code)), tuple(sorted(ptx)))


def _item(text: str) -> ArchitectureList:
    """One number with its prefix or suffix."""
    lowered = text.lower()
    plain = lowered.removesuffix("+ptx")
    if plain.startswith("compute") or plain.endswith("-virtual"):
        return ArchitectureList((), (Architecture.parse(plain.removesuffix("-virtual")),))
    architecture = Architecture.parse(plain.removesuffix("-real"))
    # CMake's bare «120» and «120f» mean both machine code and PTX.
    bare_cmake = re.fullmatch(r"\d+[af]?", lowered) is not None
    with_ptx = plain != lowered or bare_cmake
    return ArchitectureList((architecture,), (architecture,) if with_ptx else ())
