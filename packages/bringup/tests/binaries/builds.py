"""The table of kernels that are compiled for the tests: what nvcc is asked for, what must be read back."""

from __future__ import annotations

from dataclasses import dataclass, field

KERNELS = {
    "scale": "__global__ void scale(float* x) { x[threadIdx.x] *= 2; }\n"
    'extern "C" void launch_scale(float* x) { scale<<<1, 32>>>(x); }\n',
    "shift": "__global__ void shift(float* x) { x[threadIdx.x] += 2; }\n"
    'extern "C" void launch_shift(float* x) { shift<<<1, 32>>>(x); }\n',
}


@dataclass(frozen=True)
class Build:
    """One library.

    Attributes:
        units: for each translation unit its targets in nvcc's spelling; "sm_120" is machine code,
            "compute_120" PTX.
        flags: more for nvcc.
        small: kept in the tree, since it is made of few kilobytes.
    """

    units: tuple[tuple[str, ...], ...]
    flags: tuple[str, ...] = ()
    machine_code: tuple[str, ...] = ()
    in_all: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    small: bool = False
    runs_on: dict[str, str] = field(default_factory=dict)


def _one(target: str, **runs_on: str) -> Build:
    code = (target,) if target.startswith("sm_") else ()
    ptx = () if code else (target,)
    return Build(((target,),), (), code, code, ptx, runs_on=runs_on)


PLAIN = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_88", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110")
PLAIN += ("sm_120", "sm_121")
SUFFIXED = ("sm_90a", "sm_100a", "sm_100f", "sm_103a", "sm_103f", "sm_110a", "sm_110f")
SUFFIXED += ("sm_120a", "sm_120f", "sm_121a", "sm_121f")
VIRTUAL = ("compute_75", "compute_90", "compute_90a", "compute_100f", "compute_120", "compute_120a")
VIRTUAL += ("compute_120f",)

BUILDS: dict[str, Build] = {name: _one(name) for name in (*PLAIN, *SUFFIXED, *VIRTUAL)}
BUILDS |= {
    "many": Build(
        (("sm_75", "sm_86", "sm_90a", "sm_120", "compute_120"),),
        machine_code=("sm_75", "sm_86", "sm_90a", "sm_120"),
        in_all=("sm_75", "sm_86", "sm_90a", "sm_120"),
        ptx=("compute_120",),
        small=True,
        runs_on={"7.5": "machine-code", "8.9": "machine-code", "9.0": "machine-code", "10.0": "no",
                 "12.0": "machine-code", "12.1": "machine-code"},
    ),
    "two-units": Build(
        (("sm_80", "sm_120"), ("sm_80",)),
        machine_code=("sm_80", "sm_120"),
        in_all=("sm_80",),
        small=True,
        runs_on={"8.0": "machine-code", "8.6": "machine-code", "9.0": "no", "12.0": "partial"},
    ),
    "optional-unit": Build(
        (("sm_80", "sm_90"), ("sm_90a",)),
        machine_code=("sm_80", "sm_90", "sm_90a"),
        in_all=("sm_80", "sm_90"),
        small=True,
        runs_on={"8.0": "machine-code", "9.0": "machine-code", "12.0": "no"},
    ),
    "family": Build(
        (("sm_100f", "sm_120f"),),
        machine_code=("sm_100f", "sm_120f"),
        in_all=("sm_100f", "sm_120f"),
        small=True,
        runs_on={"9.0": "no", "10.0": "machine-code", "10.3": "machine-code", "11.0": "no",
                 "12.0": "machine-code", "12.1": "machine-code"},
    ),
    "ptx-only": Build(
        (("compute_80",),),
        ptx=("compute_80",),
        small=True,
        runs_on={"7.5": "no", "8.0": "ptx", "9.0": "ptx", "12.0": "ptx"},
    ),
    "code-and-ptx-units": Build(
        (("sm_90",), ("compute_90",)),
        machine_code=("sm_90",),
        ptx=("compute_90",),
        runs_on={"9.0": "ptx", "12.0": "partial", "8.0": "no"},
    ),
    "relocatable": Build(
        (("sm_90", "sm_120"), ("sm_90", "sm_120")),
        flags=("-rdc=true",),
        machine_code=("sm_90", "sm_120"),
        in_all=("sm_90", "sm_120"),
        small=True,
        runs_on={"9.0": "machine-code", "12.0": "machine-code", "8.0": "no"},
    ),
}  # fmt: skip
for _mode in ("none", "speed", "balance", "size"):
    BUILDS[f"compressed-{_mode}"] = Build(
        (("sm_120", "compute_120"),),
        flags=(f"--compress-mode={_mode}",),
        machine_code=("sm_120",),
        in_all=("sm_120",),
        ptx=("compute_120",),
        small=True,
        runs_on={"12.0": "machine-code", "9.0": "no"},
    )
