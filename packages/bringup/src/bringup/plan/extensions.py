"""How a compiled extension comes into an environment: a wheel, a portable replacement, a build, or not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.utils import canonicalize_name

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import Catalog
from bringup.errors import BringupError
from bringup.plan.extension_wheels import find_wheels
from bringup.plan.folders import content_of
from bringup.plan.model import Choice, Reason, Rejected
from bringup.plan.resolve import Resolved, Resolver
from bringup.plan.steps import BuildExtension, FetchSource
from bringup.plan.torch_choice import TorchChoice
from bringup.recipes.schema import ExtensionRow

_OLDEST_PORTABLE = ComputeCapability(7, 5)  # the oldest chip that NVRTC 13 makes code for


@dataclass
class ExtensionPlan:
    """What the extensions add to a plan.

    Attributes:
        wheels: locked files of extension indexes, and `pages`: distribution → its page of links.
        shims: names for `portable-kernels install --shim`.
        builds: one step for each extension that is compiled.
    """

    choices: list[Choice] = field(default_factory=list)
    wheels: list[Resolved] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)
    shims: list[str] = field(default_factory=list)
    builds: list[BuildExtension] = field(default_factory=list)


@dataclass(frozen=True)
class ExtensionQuestion:
    """What the ways depend on. `prefer`: a way that the user wants first."""

    torch: TorchChoice
    gpus: tuple[ComputeCapability, ...]
    resolver: Resolver
    catalog: Catalog
    prefer: str | None = None


def _wheel(row: ExtensionRow, question: ExtensionQuestion, plan: ExtensionPlan) -> Reason | None:
    """Take a wheel from the extension's own page for this torch; the reason if there is none."""
    torch = question.torch
    found = find_wheels(row, torch.version, torch.cuda, question.resolver, question.catalog)
    if isinstance(found, Reason):
        return found
    page, files = found
    plan.wheels += files
    plan.pages[canonicalize_name(row.distribution)] = page
    return None


def _portable(row: ExtensionRow, question: ExtensionQuestion, plan: ExtensionPlan) -> Reason | None:
    assert row.portable is not None
    old = [gpu for gpu in question.gpus if gpu < _OLDEST_PORTABLE]
    if old:
        return Reason(id="extension-chip-too-old", parameters={"gpu": old[0].sm})
    if row.portable not in {known.portable for known in question.catalog.extensions}:
        return Reason(id="extension-portable-unknown", parameters={"name": row.portable})
    plan.shims.append(row.portable)
    return None


def _local(repository: str) -> Path | None:
    """The folder that a file URL names."""
    url = urlparse(repository)
    return Path(url2pathname(url.path)) if url.scheme == "file" else None


def _build(row: ExtensionRow, question: ExtensionQuestion, plan: ExtensionPlan) -> Reason | None:
    assert row.build is not None
    if not question.gpus or question.torch.cuda is None:
        return Reason(id="extension-build-needs-gpu")
    if shutil.which("g++") is None and shutil.which("cl") is None:
        return Reason(id="extension-no-compiler")
    name = canonicalize_name(row.distribution)
    source = None
    if row.build.repository is not None and row.build.commit is not None:
        local = _local(row.build.repository)
        if local is not None and not local.is_dir():
            return Reason(id="extension-source-gone", parameters={"path": str(local)})
        source = FetchSource(
            id=f"source-{name}",
            repository=row.build.repository,
            commit=row.build.commit,
            submodules=dict(row.build.submodules),
            licence=row.build.licence,
            local=str(local) if local else None,
            content=content_of(local) if local else None,
        )
    plan.builds.append(
        BuildExtension(
            id=f"build-{name}",
            distribution=name,
            imports=row.imports,
            source=source,
            folder=row.build.folder or "",
            subfolder=row.build.subfolder,
            architectures=tuple(gpu.sm for gpu in sorted(set(question.gpus))),
            environment=dict(row.build.environment),
            memory_per_job=int(row.build.memory_per_job_gb * 1e9),
            minutes=row.build.minutes,
        )
    )
    return None


_WAYS = {"wheel": _wheel, "portable": _portable, "build": _build}


def choose_extensions(rows: Sequence[ExtensionRow], question: ExtensionQuestion) -> ExtensionPlan:
    """Take for each extension the first way that serves, and say why not the ones before.

    Raises:
        BringupError: `no-way-for-extension`, naming what stands against each way.
    """
    plan = ExtensionPlan()
    for row in rows:
        ways = sorted(row.ways, key=lambda way: way != question.prefer) if question.prefer else row.ways
        rejected: list[Rejected] = []
        for way in ways:
            against = _WAYS[way](row, question, plan) if way != "drop" else None
            if against is None:
                why = Reason(id=f"extension-{way}", parameters=_parameters(row, way))
                plan.choices.append(
                    Choice(subject=row.distribution, chosen=way, why=why, rejected=tuple(rejected))
                )
                break
            rejected.append(Rejected(what=way, why=against))
        else:
            raise BringupError("no-way-for-extension", extension=row.distribution, reasons=tuple(rejected))
    return plan


def _parameters(row: ExtensionRow, way: str) -> dict[str, str | int | float | bool]:
    if way == "build":
        assert row.build is not None
        return {"minutes": row.build.minutes, "licence": row.build.licence}
    return {}
