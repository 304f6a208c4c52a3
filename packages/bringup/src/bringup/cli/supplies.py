"""What `up` says beside its error when something that the network has is not on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bringup.binaries.architectures import ComputeCapability
    from bringup.plan.sequence import Given
    from bringup.recipes.schema import Recipe

_OF_THE_NETWORK = frozenset(
    {
        "download-failed",
        "no-matching-distribution",
        "no-network",
        "no-torch",
        "no-torch-for-gpu",
        "no-versions",
        "source-failed",
        "source-offline",
        "weights-missing",
    }
)


@contextmanager
def naming_what_is_missing(
    recipe: Recipe,
    gpus: Sequence[ComputeCapability],
    given: Given,
    pack: Path | None,
    links: Sequence[Path],
    name: str | None = None,
) -> Iterator[None]:
    """List source, wheels and weights that are not here, all at once, when one of them could not be had.

    `name`: the recipe as it was given, a file's path for one that is not built in.
    """
    from bringup.errors import BringupError

    try:
        yield
    except BringupError as error:
        if error.id in _OF_THE_NETWORK:
            from bringup.report.console import remarks
            from bringup.report.fetch import print_missing
            from bringup.steps.packing.lacking import missing_supplies

            missing = missing_supplies(recipe, given, pack, links)
            if missing:
                chips = " ".join(f"--gpu {gpu.sm}" for gpu in gpus) or "--cpu"
                called = name or recipe.name
                print_missing(called, chips, missing, pack, given.arguments, remarks())
        raise


def checked_pack(pack: Path | None) -> Path | None:
    """The pack's folder, compared with its manifest.

    Raises:
        BringupError: `no-pack`, `pack-invalid`, `pack-damaged`.
    """
    from bringup.steps.packing.manifest import check_pack

    if pack is None:
        return None
    folder = pack.expanduser().absolute()
    check_pack(folder)
    return folder


def say_other_weights(recipe: Recipe) -> None:
    """Say it where the weights in use are not the ones that the recipe has pinned (`--weights`)."""
    from bringup.report.console import remarks
    from bringup.report.messages import say
    from bringup.steps.weights import are_other_weights

    for row in recipe.weights:
        if row.repository and are_other_weights(row.repository, row.revision):
            remarks().print(say("up-notes.other-weights", name=row.repository), markup=False, soft_wrap=True)
