"""Distributions whose wheels are compiled for one torch: xFormers, torchcodec, vLLM. The newest that fits it.

What a wheel was built for is read from its METADATA (`Requires-Dist: torch==2.9.1`) on the index; the
catalog's `companions.toml` corrects those that declare less than they need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.catalog import Catalog
from bringup.errors import BringupError
from bringup.facts.interpreters import Interpreter
from bringup.plan.model import Choice, Reason, Rejected
from bringup.plan.resolve import Resolver

_UPPER = ("==", "===", "~=", "<", "<=")
_LONGEST_LIST = 60  # requirements; a longer list is a lock of everything, whose versions stand already
_FAMILY = ("torch", "torchvision", "torchaudio", "triton")


@dataclass(frozen=True)
class BuiltFor:
    """What a wheel was compiled for: torch, and the major version of CUDA (None: any serves).

    `declared`: its METADATA say so, and an installer goes by it.
    """

    torch: SpecifierSet
    cuda: int | None = None
    declared: bool = False

    def serves(self, torch: Version, cuda: str | None) -> bool:
        """Whether it loads beside this torch of this CUDA (None: a CPU build)."""
        right_cuda = self.cuda is None or (cuda is not None and self.cuda == int(cuda.partition(".")[0]))
        return right_cuda and self.torch.contains(torch.public, prereleases=True)

    def is_older_than(self, torch: Version) -> bool:
        """Whether it was built for an older torch: then so were all releases before it."""
        bounds = [row.version.removesuffix(".*") for row in self.torch if row.operator in _UPPER]
        return any(Version(bound) <= torch for bound in bounds) and not self.torch.contains(torch.public)

    def __str__(self) -> str:
        return f"torch{self.torch}" + (f" (CUDA {self.cuda})" if self.cuda else "")


def torch_of(requires: Sequence[str], interpreter: Interpreter) -> SpecifierSet | None:
    """What METADATA say of torch itself for this Python, extras aside; None where they do not name it."""
    for text in requires:
        row = Requirement(text)
        if canonicalize_name(row.name) == "torch" and (
            row.marker is None or row.marker.evaluate(interpreter.markers)
        ):
            return row.specifier
    return None


def torch_companions(
    requirements: Sequence[str], resolver: Resolver, catalog: Catalog
) -> tuple[Requirement, ...]:
    """Those requirements whose releases belong to a torch each: by their newest METADATA, or the catalog."""
    asked = [Requirement(text) for text in requirements]
    asked = [row for row in asked if row.url is None and canonicalize_name(row.name) not in _FAMILY]
    if not asked:
        return ()
    known = {row.name for row in catalog.companions}
    is_lock = len(asked) > _LONGEST_LIST
    try:
        newest = [] if is_lock else resolver.resolve([str(row) for row in asked], with_dependencies=False)
    except BringupError:
        newest = []  # What cannot be had is said where all of it is resolved.
    for row in newest:
        torch = torch_of(row.requires, resolver.interpreter)
        if torch and any(part.operator in ("==", "===", "~=") for part in torch):
            known.add(row.name)
    return tuple(row for row in asked if canonicalize_name(row.name) in known)


def _built_for(name: str, version: Version, resolver: Resolver, catalog: Catalog) -> BuiltFor | None:
    """None: this Python has no wheel of it."""
    row = catalog.companion(name, version)
    if row is not None:
        return BuiltFor(SpecifierSet(row.torch), row.cuda)
    try:
        found = resolver.resolve([f"{name}=={version}"], with_dependencies=False)
    except BringupError:
        return None
    torch = torch_of(found[0].requires, resolver.interpreter) or SpecifierSet()
    exact = next((part.version for part in torch if part.operator == "=="), None)
    # Compiled against the build of that release which the index has, unless its label says otherwise.
    cuda = catalog.default_cuda(exact) if exact and not version.local else None
    return BuiltFor(torch, int(cuda.partition(".")[0]) if cuda else None, declared=True)


def _candidates(
    requirement: Requirement, torch: Version, resolver: Resolver, catalog: Catalog
) -> Iterator[tuple[Version, BuiltFor]]:
    for version in resolver.versions(requirement.name):
        if requirement.specifier.contains(version):
            built = _built_for(requirement.name, version, resolver, catalog)
            if built is not None:
                yield version, built
                if built.is_older_than(torch):
                    return


def newest_for(
    requirement: Requirement, torch: Version, cuda: str | None, resolver: Resolver, catalog: Catalog
) -> tuple[Version | None, list[tuple[Version, BuiltFor]]]:
    """(the newest release that was built for this torch, newer ones with what they were built for)."""
    others: list[tuple[Version, BuiltFor]] = []
    for version, built in _candidates(requirement, torch, resolver, catalog):
        if built.serves(torch, cuda):
            return version, others
        others.append((version, built))
    return None, others


def may_stand_beside(requirement: Requirement, torch: Version, resolver: Resolver, catalog: Catalog) -> bool:
    """Whether an installer puts a release of it beside this torch, be its CUDA code of use there or not."""
    return any(torch.public in built.torch for _, built in _candidates(requirement, torch, resolver, catalog))


def choose_companions(
    requirements: Sequence[str], torch: Version, cuda: str | None, resolver: Resolver, catalog: Catalog
) -> tuple[list[str], list[Choice]]:
    """(the requirements, those of one torch each exact; what is to be said of them).

    One that nobody built for this torch stays as it was asked for where its METADATA allow that: much of
    it is Python alone.

    Raises:
        BringupError: `requirements-conflict`: the METADATA of all that is asked for exclude this torch.
    """
    exact: dict[str, str] = {}
    choices: list[Choice] = []
    for row in torch_companions(requirements, resolver, catalog):
        version, others = newest_for(row, torch, cuda, resolver, catalog)
        if version is not None:
            fixed = Requirement(str(row))
            fixed.specifier = SpecifierSet(f"==={version}" if version.local else f"=={version}")
            exact[str(row)] = str(fixed)
        elif others and all(built.declared and torch.public not in built.torch for _, built in others):
            text = " · ".join(f"{row.name} {other} depends on {built}" for other, built in others[:3])
            raise BringupError("requirements-conflict", subject=f"torch=={torch}", text=text)
        if others:
            reason = "companion-for-torch" if version else "companion-without-code"
            why = Reason(id=reason, parameters={"torch": str(torch)})
            rejected = tuple(_not_taken(*other) for other in others)
            choices.append(Choice(subject=row.name, chosen=str(version or "✗"), why=why, rejected=rejected))
    return [exact.get(str(Requirement(text)), text) for text in requirements], choices


def _not_taken(version: Version, built: BuiltFor) -> Rejected:
    why = Reason(id="companion-built-for", parameters={"built": str(built)})
    return Rejected(what=str(version), why=why)
