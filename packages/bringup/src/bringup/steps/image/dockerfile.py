"""The Dockerfile as text: a builder stage that is thrown away, and a final stage with one COPY.

What the final image gains is one folder (`/opt/bringup`), a pointer beside the base's packages, and the files
that were edited. Built by BuildKit (Docker 18.09 or newer), podman and buildah alike: no frontend is fetched.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from packaging.requirements import Requirement

from bringup.catalog import Catalog
from bringup.recipes.schema import ExtensionBuild
from bringup.steps.image.spec import ExtensionChoice, ImageSpec, wheel_page

CONTEXT = "/bringup"
ENVIRONMENT = "/opt/bringup/site"
_PIP = f"PYTHONPATH=/tmp/pip {ENVIRONMENT}/bin/python -m pip"
_BUILD_TOOLS = {
    "setuptools": ("setuptools<81", "wheel", "ninja"),
    "scikit-build-core": ("scikit-build-core", "cmake", "ninja", "pybind11"),
    "cmake": ("cmake", "ninja"),
}
_APT = (
    "--mount=type=cache,target=/var/cache/apt,sharing=locked",
    "--mount=type=cache,target=/var/lib/apt,sharing=locked",
)


def build_context_names(spec: ImageSpec) -> dict[str, str]:
    """Named contexts that the build must be given: `wheels0`, … → folder on this machine."""
    return {f"wheels{number}": str(folder) for number, folder in enumerate(spec.find_links)}


def _context_mount() -> str:
    return f"--mount=type=bind,source=.,target={CONTEXT}"


def _mounts(spec: ImageSpec) -> list[str]:
    """What every installing step sees: pip's cache and configuration, a private CA, the context, wheels."""
    wheels = [f"--mount=type=bind,from={name},target=/{name}" for name in build_context_names(spec)]
    return [
        "--mount=type=cache,target=/root/.cache/pip,sharing=locked",
        "--mount=type=secret,id=pip,target=/etc/pip.conf",
        "--mount=type=secret,id=ca,target=/run/bringup-ca.pem",
        _context_mount(),
        *wheels,
    ]


def _sources(spec: ImageSpec) -> list[str]:
    """Shell lines that tell pip where packages come from."""
    lines = ["if [ -s /run/bringup-ca.pem ]; then export PIP_CERT=/run/bringup-ca.pem; fi"]
    if spec.find_links:
        folders = " ".join(f"/{name}" for name in build_context_names(spec))
        lines.append(f'export PIP_FIND_LINKS="{folders}"')
    if spec.offline:
        lines.append("export PIP_NO_INDEX=1")
    return lines


def _run(mounts: Sequence[str], commands: Sequence[str]) -> str:
    """One RUN that stops at the first failure. A command of several lines ends each with an operator."""
    lines = "; \n".join(["set -eu", *commands]).split("\n")
    shown = [*mounts, *(line.rstrip() for line in lines)]
    return " \\\n    ".join([f"RUN {shown[0]}", *shown[1:]])


def _packages(spec: ImageSpec) -> list[str]:
    extra = ' --extra-index-url "$TORCH_INDEX"' if spec.index and not spec.offline else ""
    record = "--report /tmp/installed.json"
    install = f"{_PIP} install --prefer-binary {record}{extra} -r {CONTEXT}/requirements.txt"
    commands = [
        *_sources(spec),
        f'"$PYTHON" {CONTEXT}/assemble.py create',
        install,
    ]
    return [
        "# An environment over the base's own packages: what fits already is not installed again.",
        _run(_mounts(spec), commands),
    ]


def _wheel_command(choice: ExtensionChoice, catalog: Catalog, spec: ImageSpec) -> str:
    page = wheel_page(choice.row, catalog, spec.torch)
    pin = choice.row.pin
    wanted = shlex.quote(choice.row.distribution + (f"=={pin}" if pin else ""))
    links = f"--find-links {page} " if page and not spec.offline else ""
    return f"{_PIP} install --no-deps --only-binary=:all: {links}{wanted}"


def _shim_command(choice: ExtensionChoice) -> str:
    program = f"PYTHONPATH=/tmp/pip {ENVIRONMENT}/bin/python -m portable_kernels"
    # By force: a base may have the original, which can seem to work where no GPU is.
    return f"{program} install --force --shim {choice.row.portable}"


def _clone(repository: str, commit: str, place: str, submodules: bool) -> list[str]:
    """A pinned commit, its submodules at the commits that it names."""
    commands = [
        f"git clone --quiet --no-checkout {shlex.quote(repository)} {place}",
        f"git -C {place} checkout --quiet {commit}",
    ]
    update = f"git -C {place} submodule update --quiet --init --recursive"
    return [*commands, update] if submodules else commands


def _source_place(spec: ImageSpec) -> str:
    """Where the workload's own code lies in the builder stage."""
    return f"/changes{spec.source}" if spec.fetched else spec.source


def _edit_command(source: str, extension: str = "") -> str:
    of = f" --of {extension}" if extension else ""
    return f'PYTHONPATH=/tmp/bringup "$PYTHON" {CONTEXT}/edit.py --source {source}{of}'


def _build_command(name: str, build: ExtensionBuild, spec: ImageSpec) -> str:
    """Compile from the pinned commit, with as many jobs as cores and free memory allow."""
    variables = {
        "CUDA_HOME": f"/usr/local/cuda-{spec.toolkit}",
        "FORCE_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": ";".join(str(gpu) for gpu in spec.gpus),
        "CMAKE_CUDA_ARCHITECTURES": ";".join(str(gpu.number) for gpu in spec.gpus),
        "CFLAGS": "-O2",
        "CXXFLAGS": "-O2",
        **build.environment,
    }
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    tools = " ".join(shlex.quote(name) for name in _BUILD_TOOLS[build.backend])
    # Kilobytes per job; the kernel's estimate of what is free now.
    per_job = int(build.memory_per_job_gb * 1e6)
    place = f"/tmp/source/{name}"
    if build.repository and build.commit:
        commands = _clone(build.repository, build.commit, place, bool(build.submodules))
    else:
        # A copy: what compiling leaves behind must not get into the image.
        own = f"{_source_place(spec)}/{build.folder}"
        commands = ["mkdir -p /tmp/source", f"cp -R {shlex.quote(own)} {place}"]
    if spec.edits_of(name):
        commands.append(_edit_command(place, name))
    folder = shlex.quote(f"{place}/{build.subfolder}" if build.subfolder else place)
    return (
        "; \n".join(commands) + "; \n"
        f'jobs=$(awk -v n="$(nproc)" \'/MemAvailable/ {{ m = int($2 / {per_job}); if (m > n) m = n; '
        "print (m < 1 ? 1 : m) }' /proc/meminfo); \n"
        f"{_PIP} install --quiet --target /tmp/build {tools}; \n"
        f'PYTHONPATH=/tmp/pip:/tmp/build PATH="/tmp/build/bin:$PATH" MAX_JOBS="$jobs" '
        f'CMAKE_BUILD_PARALLEL_LEVEL="$jobs" {settings} '
        f"{ENVIRONMENT}/bin/python -m pip install --no-deps --no-build-isolation {folder}"
    )


def _extension(choice: ExtensionChoice, catalog: Catalog, spec: ImageSpec) -> list[str]:
    """One extension, the ways in order: a way that fails falls to the next."""
    commands = []
    mounts = _mounts(spec)
    for way in choice.ways:
        if way == "wheel":
            commands.append(_wheel_command(choice, catalog, spec))
        elif way == "portable":
            commands.append(_shim_command(choice))
        elif way == "build" and choice.row.build:
            commands.append("{ " + _build_command(choice.row.distribution, choice.row.build, spec) + "; }")
            mounts.append(
                f"--mount=type=bind,from=cuda,source=/usr/local/cuda-{spec.toolkit},"
                f"target=/usr/local/cuda-{spec.toolkit}"
            )
    if not commands:
        return []
    title = f"# {choice.row.distribution}: {', else '.join(choice.ways)}."
    return [title, _run(mounts, [*_sources(spec), " || \n".join(commands)])]


def _compilers(spec: ImageSpec) -> list[str]:
    if not spec.toolkit:
        return []
    commands = [
        "rm -f /etc/apt/apt.conf.d/docker-clean",
        "apt-get update",
        "apt-get install -y --no-install-recommends g++ git ninja-build",
    ]
    return ["# The compiler stays in this stage.", _run(list(_APT), commands)]


def _fetch_source(spec: ImageSpec) -> list[str]:
    source = spec.recipe.source
    if not spec.fetched or source is None:
        return []
    place = f"/changes{spec.source}"
    if spec.local is not None:
        title = f"# {spec.recipe.name}'s own code, {source.licence}: the copy that was given."
        return [title, _run([_context_mount()], [f"mkdir -p {place}", f"cp -R {CONTEXT}/source/. {place}"])]
    commands = [
        "command -v git > /dev/null || { rm -f /etc/apt/apt.conf.d/docker-clean; apt-get update; \n"
        "  apt-get install -y --no-install-recommends git ca-certificates; }",
        *_clone(source.repository, source.commit, place, bool(source.submodules)),
        f"rm -rf {place}/.git",
    ]
    return [
        f"# {spec.recipe.name}'s own code, {source.licence}.",
        _run(list(_APT), commands),
    ]


def _tools(spec: ImageSpec) -> list[str]:
    """bringup itself, for the edits and the checkpoints; it stays in the builder stage."""
    if not needs_bringup(spec):
        return []
    install = f"{_PIP} install --quiet --target /tmp/bringup {CONTEXT}/own/bringup"
    return [
        "# bringup itself, to edit sources and to read old models without running them.",
        _run(_mounts(spec), [*_sources(spec), install]),
    ]


def needs_bringup(spec: ImageSpec) -> bool:
    """Whether the builder stage runs bringup's own verbs."""
    return bool(spec.checkpoints) or bool(spec.patches)


def _edits(spec: ImageSpec) -> list[str]:
    rows = spec.edits_of("")
    if not rows:
        return []
    place = _source_place(spec)
    names = ", ".join(row.id for row in rows)
    title = f"# Source edits, where the fault is present: {names}."
    return [title, _run([_context_mount()], [_edit_command(place)])]


def _checkpoints(spec: ImageSpec) -> list[str]:
    if not spec.checkpoints or spec.recipe.image is None:
        return []
    models = spec.recipe.image.folders["models"]
    # `{path}` in a row's destination is the file with its own folder: what stands above them is here.
    above = PurePosixPath(spec.checkpoints[0].files).parent.parent
    bringup = "env PYTHONPATH=/tmp/bringup \"$PYTHON\" -c 'from bringup.cli.main import main; main()'"
    files = " -o ".join(f"-path {shlex.quote(f'{models}/{row.files}')}" for row in spec.checkpoints)
    paths = " ".join(
        f"--path {shlex.quote(_source_place(spec) + '/' + path) if not path.startswith('/') else path}"
        for row in spec.checkpoints
        for path in row.python_path
    )
    commands = [
        f"find {models} \\( {files} \\) -print0 | xargs -0 {bringup} convert -o /tmp/converted",
        f"{bringup} rebuild /tmp/converted/*.json --env {ENVIRONMENT} --recipe {CONTEXT}/recipe.toml {paths} "
        f"-o /changes{PurePosixPath(models) / above}".replace("  ", " "),
    ]
    return [
        "# Old pickled models: read without running them, rebuilt strictly.",
        _run([_context_mount()], commands),
    ]


def requirement_lines(spec: ImageSpec) -> list[str]:
    """`requirements.txt`: torch first, then the recipe's, then our own packages from the context."""
    lines = list(spec.requirements)
    for package in spec.own:
        extra = ""
        if package.name == "portable-kernels" and spec.torch and spec.torch.cuda:
            extra = f"[cu{spec.torch.cuda.split('.')[0]}]"
        lines.append(f"{package.name}{extra} @ file://{CONTEXT}/own/{package.path.name}")
    for text in lines:
        Requirement(text)
    return lines


def _final(spec: ImageSpec, user: str) -> list[str]:
    labels = {
        "org.opencontainers.image.base.name": spec.base,
        "bringup.recipe": spec.recipe.name,
        "bringup.profile": spec.profile,
        "bringup.gpus": " ".join(gpu.sm for gpu in spec.gpus) or "cpu",
    }
    texts = " ".join(f'{name}="{value}"' for name, value in labels.items())
    lines = [
        "FROM ${BASE} AS image",
        "ARG PYTHON",
        "USER root",
        "# The one copy: /changes mirrors /, and holds only what changed.",
        "COPY --from=site /changes/ /",
        "# Metadata of what was replaced and files of what nobody imports go; then a proof without GPU.",
        'RUN set -eu; "$PYTHON" -B /opt/bringup/finish.py',
        "ENV PATH=/opt/bringup/bin:$PATH",
        f"LABEL {texts}",
    ]
    in_base = spec.recipe.image is not None and spec.source in spec.recipe.image.folders.values()
    if spec.fetched and not in_base:
        lines.append(f"WORKDIR {spec.source}")
    if user:
        lines.append(f"USER {user}")
    return lines


def dockerfile(spec: ImageSpec, catalog: Catalog, user: str = "") -> str:
    """The whole file.

    Args:
        user: whom the base runs as, where it is known and not root; restored at the end.
    """
    chips = ", ".join(gpu.sm for gpu in spec.gpus) or "CPU"
    torch = f"torch {spec.torch.version} ({spec.torch.local})" if spec.torch else "the base's own torch"
    lines = [
        f"# {spec.recipe.name} ({spec.profile}) for {chips}: {torch}. Written by `bringup image`.",
        f"ARG BASE={spec.base}",
        f"ARG PYTHON={spec.python}",
    ]
    if spec.toolkit:
        lines += [
            f"ARG CUDA=docker.io/nvidia/cuda:{spec.toolkit}.0-devel-ubuntu22.04",
            "",
            "FROM ${CUDA} AS cuda",
        ]
    lines += ["", "FROM ${BASE} AS site", "ARG PYTHON"]
    if spec.index and not spec.offline:
        lines.append(f"ARG TORCH_INDEX={spec.index}")
    lines += ["USER root", "ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1"]
    blocks = [_compilers(spec), _packages(spec)]
    blocks += [_tools(spec), _fetch_source(spec), _edits(spec)]
    blocks += [_extension(choice, catalog, spec) for choice in spec.extensions]
    blocks += [_checkpoints(spec)]
    collect = _run([_context_mount()], [f'"$PYTHON" {CONTEXT}/assemble.py collect'])
    blocks.append(["# Everything that changed, below /changes.", collect])
    for block in blocks:
        lines += block
    return "\n".join([*lines, "", *_final(spec, user)]) + "\n"
