"""Wheels of compiled extensions that stand on a page for each torch and CUDA, as PyG's do."""

from __future__ import annotations

from packaging.version import Version

from bringup.catalog import Catalog
from bringup.errors import BringupError
from bringup.plan.model import Reason
from bringup.plan.resolve import Resolved, Resolver
from bringup.recipes.schema import ExtensionRow

OUT_OF_REACH = "extension-wheel-out-of-reach"


def find_wheels(
    row: ExtensionRow, torch: Version, cuda: str | None, resolver: Resolver, catalog: Catalog
) -> tuple[str, list[Resolved]] | Reason:
    """(the page for this torch and CUDA, the files to take from it), or why there are none.

    Args:
        cuda: of torch's build, "12.8"; None: a CPU build.
    """
    known = catalog.extension(row.distribution)
    if known is None or known.wheels is None:
        return Reason(id="extension-no-wheels")
    spec = f"{row.distribution}=={row.pin}" if row.pin else row.distribution
    # PyG publishes for each minor release, under its first patch.
    release = f"{torch.major}.{torch.minor}.0"
    page = known.wheels.format(torch=release, cuda=f"cu{cuda.replace('.', '')}" if cuda else "cpu")
    try:
        found = resolver.resolve([spec], index=page, with_dependencies=False)
    except BringupError as error:
        away = error.id in ("no-network", "untrusted-index", "index-too-slow")
        return Reason(id=OUT_OF_REACH if away else "extension-wheel-absent", parameters={"page": page})
    if not any("+" in file.version for file in found):
        return Reason(id="extension-wheel-not-for-torch", parameters={"page": page})
    return page, found
