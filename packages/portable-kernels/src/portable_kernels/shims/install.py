"""Put shims into an environment and take them out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from portable_kernels.errors import ShimError
from portable_kernels.shims import backup
from portable_kernels.shims.environment import Environment, Installed, Look, wheel_folder
from portable_kernels.shims.manifest import LOCAL_LABEL, Shim
from portable_kernels.shims.wheel import build_wheel


@dataclass(frozen=True)
class ShimState:
    """A shim and what stands under its name in an environment.

    state: `absent`, `shim`, `original` (a distribution), `unmanaged` (importable, but of no distribution).
    version: of the distribution that is there. replaced: of the original that is kept, to come back.
    """

    shim: Shim
    state: str
    version: str | None
    replaced: str | None


def _look(environment: Environment, shims: Sequence[Shim]) -> Look:
    names = [shim.distribution for shim in shims]
    imports = [name for shim in shims for name in shim.import_names]
    return environment.look([*names, "portable-kernels"], imports)


def _state(look: Look, shim: Shim) -> ShimState:
    installed = look.distributions[shim.distribution]
    replaced = backup.kept_version(look.prefix, shim.distribution)
    if installed is not None:
        ours = installed.version.endswith(f"+{LOCAL_LABEL}")
        return ShimState(shim, "shim" if ours else "original", installed.version, replaced)
    importable = any(look.origins[name] is not None for name in shim.import_names)
    return ShimState(shim, "unmanaged" if importable else "absent", None, replaced)


def states(environment: Environment, shims: Sequence[Shim]) -> list[ShimState]:
    """Return what stands under each shim's name in an environment."""
    look = _look(environment, shims)
    return [_state(look, shim) for shim in shims]


def _refuse(environment: Environment, look: Look, state: ShimState, force: bool) -> None:
    """Raise ShimError where a shim must not be installed."""
    shim = state.shim
    if state.state == "unmanaged":
        where = next(look.origins[name] for name in shim.import_names if look.origins[name])
        raise ShimError(
            f"{shim.distribution} is importable from {where}, but no installed distribution owns it: a shim "
            "beside it might never be imported. Remove it (or take its folder off the path), then try again."
        )
    if state.state != "original" or force:
        return
    complaint = environment.works(shim.probe)
    if complaint is None:
        raise ShimError(
            f"{shim.distribution} {state.version} is installed and works here; it stays. To put the shim in "
            f"its place: portable-kernels install --shim {shim.distribution} --force (uninstall undoes it)."
        )


def install(environment: Environment, shims: Sequence[Shim], force: bool = False) -> list[ShimState]:
    """Install shims, all or none → what stood under their names before.

    An original that does not work is replaced, one that works only with `force`; either is kept inside the
    environment for `uninstall`, and named as `replaced`; one in the environment below is covered and stays.
    ShimError: refused, no portable-kernels there, what stands there cannot be kept, or the installer failed.
    """
    look = _look(environment, shims)
    if look.distributions["portable-kernels"] is None:
        raise ShimError(
            f"portable-kernels itself is not installed in the environment of '{environment.python}', and "
            "shims call it. Install it there first, with the bindings of its torch's CUDA: "
            "portable-kernels[cu13] or [cu12]."
        )
    before = [_state(look, shim) for shim in shims]
    for state in before:
        _refuse(environment, look, state, force)
    kept: dict[str, Installed] = {}
    try:
        with wheel_folder() as folder:
            wheels = [build_wheel(shim, folder) for shim in shims]
            for state in before:
                name = state.shim.distribution
                installed = look.distributions[name]
                if state.state == "original" and installed is not None and look.owns(installed):
                    backup.keep(look.prefix, name, installed)
                    kept[name] = installed
            environment.install_wheels(wheels)
    except ShimError:
        _undo(environment, shims, kept)
        raise
    except OSError as error:
        _undo(environment, shims, kept)
        raise ShimError(f"The shims' wheels could not be written: {error}.") from error
    return [
        replace(state, replaced=state.version if state.shim.distribution in kept else None)
        if state.state == "original"
        else state
        for state in before
    ]


def _undo(environment: Environment, shims: Sequence[Shim], kept: Mapping[str, Installed]) -> None:
    """Put back the originals that a failed installation has removed, and forget those that still stand."""
    if not kept:
        return
    look = _look(environment, shims)
    for name, original in kept.items():
        now = look.distributions[name]
        if now is None:
            backup.restore(look.prefix, name)
        elif now.version == original.version:
            backup.forget(look.prefix, name)


def uninstall(environment: Environment, shims: Sequence[Shim]) -> list[ShimState]:
    """Remove shims and put back what they replaced → what stands under their names now.

    ShimError when one of them is not installed as a shim (originals are never removed), or what was replaced
    cannot be put back: it stays kept, and the same call tries again.
    """
    look = _look(environment, shims)
    there = [_state(look, shim) for shim in shims]
    unfinished = [state for state in there if state.state in ("absent", "unmanaged") and state.replaced]
    others = [state for state in there if state.state != "shim" and state not in unfinished]
    if others:
        names = ", ".join(state.shim.distribution for state in others)
        raise ShimError(f"There is no shim of {names} in the environment of '{environment.python}'.")
    if installed := [state.shim.distribution for state in there if state.state == "shim"]:
        environment.remove(installed)
    for shim in shims:
        backup.restore(look.prefix, shim.distribution)
    return states(environment, shims)
