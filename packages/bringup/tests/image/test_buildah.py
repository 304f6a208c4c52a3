"""The whole way with real engines: buildah and podman, without a daemon, on a base made from this Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bringup.steps.clean.manual import FINAL, INTERMEDIATE

pytestmark = pytest.mark.slow

_PACKAGES = {"buildah": "buildah", "busybox": "busybox-static", "podman": "podman"}
BASE = "localhost/bringup-test-base:1"
PYTHON = os.path.realpath(sys.executable)

RECIPE = """schema = "bringup/recipe/1"
name = "small"
title = { en = "A small workload", zh = "小型工作负载" }
summary = { en = "For tests.", zh = "用于测试。" }
python = ">=3.10"

[torch]
range = ">=2.6"

[[requirements]]
spec = "idna==3.7"

[[requirements]]
spec = "toml"
drop = true

[needs]
gpu = "none"

[[probes]]
name = "imports"
imports = ["idna", "markupsafe"]

[[stages]]
name = "say"
title = { en = "Say", zh = "输出" }
command = ["python3", "-c", "import idna; print(idna.__version__)"]
"""


LAB = "localhost/bringup-test-lab:1"
LAB_RECIPE = f"""schema = "bringup/recipe/1"
name = "lab"
title = {{ en = "Code in the base", zh = "代码在基础镜像中" }}
summary = {{ en = "For tests.", zh = "用于测试。" }}
python = ">=3.10"

[source]
repository = "https://example.org/lab/lab"
commit = "0123456789abcdef0123456789abcdef01234567"
licence = "MIT"

[torch]
range = ">=2.6"

[[requirements]]
spec = "idna==3.7"

[[patches]]
id = "safe-load"
files = "**/*.py"
kind = "rewrite-torch-load"
fault = 'torch\\.load'
why = {{ en = "safe", zh = "安全" }}

[[patches]]
id = "greeting"
files = "say.py"
kind = "replace"
fault = "hello"
value = "goodbye"
why = {{ en = "polite", zh = "礼貌" }}

[needs]
gpu = "none"

[[probes]]
name = "imports"
imports = ["idna"]

[image]
reference = "{LAB}"
python = "{PYTHON}"
site_packages = "/unused"
python_version = "{sys.version_info[0]}.{sys.version_info[1]}"
folders = {{ code = "/opt/lab" }}
"""


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """buildah and a static busybox: installed where they are missing and may be installed."""
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    install = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(f"this test builds a container image: {install}", pytrace=False)
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], install.split()):
        ran = subprocess.run(command, capture_output=True, text=True, env=quiet)
        if ran.returncode:
            pytest.fail(f"{' '.join(command)} failed: {ran.stderr[-500:]}", pytrace=False)


@pytest.fixture(scope="module")
def store(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image store of its own, of plain folders."""
    folder = tmp_path_factory.mktemp("store")
    configuration = folder / "storage.conf"
    settings = f'driver = "vfs"\ngraphroot = "{folder / "graph"}"\nrunroot = "{folder / "run"}"\n'
    configuration.write_text(f"[storage]\n{settings}")
    os.environ["CONTAINERS_STORAGE_CONF"] = str(configuration)
    os.environ["BUILDAH_ISOLATION"] = "chroot"
    yield folder
    del os.environ["CONTAINERS_STORAGE_CONF"], os.environ["BUILDAH_ISOLATION"]
    shutil.rmtree(folder, ignore_errors=True)


def buildah(*arguments: str, check: bool = True) -> str:
    ran = subprocess.run(["buildah", *arguments], capture_output=True, text=True)
    assert not check or ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def commit(root: Path, name: str) -> None:
    """An image of one layer with the files below a folder."""
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root), "/")
    buildah("commit", "--quiet", container, name)
    buildah("rm", container)


def _copy(root: Path, file: str) -> None:
    target = root / file.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(file, target)


def make_root(root: Path) -> None:
    """A small system: busybox, this Python with its standard library, and the shared objects of both."""
    for name in ("bin", "tmp", "etc", "root"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy2(busybox, root / "bin" / "busybox")
    for applet in (
        "sh",
        "env",
        "mkdir",
        "cat",
        "ls",
        "rm",
        "cp",
        "mv",
        "awk",
        "nproc",
        "find",
        "xargs",
        "test",
        "[",
    ):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    library = Path(sys.base_prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    left_out = shutil.ignore_patterns(
        "site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib", "tkinter", "config-*"
    )
    shutil.copytree(library, root / str(library).lstrip("/"), ignore=left_out, symlinks=True)
    _copy(root, PYTHON)
    binaries = [PYTHON, *map(str, (library / "lib-dynload").glob("*.so"))]
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True).stdout
    for file in sorted(set(re.findall(r"(/\S+\.so\S*) \(", listed))):
        _copy(root, file)
    # What compiled wheels expect of any system (PEP 600).
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout
    for name in (
        "libgcc_s.so.1",
        "libstdc++.so.6",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
        "libutil.so.1",
    ):
        found = re.search(rf"{re.escape(name)} .*=> (/\S+)", known)
        if found:
            _copy(root, found[1])
    packages = root / str(library).lstrip("/") / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages)]
    # markupsafe has compiled code; idna is too old for the recipe, and nobody imports toml.
    subprocess.run([*pip, "idna==3.4", "toml==0.10.2", "markupsafe==3.0.2"], check=True)


@pytest.fixture(scope="module")
def base(store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("root") / "root"
    make_root(root)
    code = {
        "net.py": 'import torch\nx = torch.load("a.pt")\n',
        "say.py": 'print("hello")\n',
        "other.py": "x = 1\n",
    }
    (root / "opt" / "lab").mkdir(parents=True)
    for name, text in code.items():
        (root / "opt" / "lab" / name).write_text(text)
    commit(root, BASE)
    buildah("tag", BASE, LAB)
    shutil.rmtree(root)
    return BASE


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--dest", str(folder), "idna==3.7"], check=True
    )
    return folder


def bringup(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # One state folder for all: the resolver that estimates sizes is made once.
    home = Path(os.environ["CONTAINERS_STORAGE_CONF"]).parent / "home"
    environment = os.environ | {"BRINGUP_HOME": str(home), "LC_ALL": "C.UTF-8", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=600)


def image(folder: Path, recipe: str, base: str, wheels: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "small.toml").write_text(recipe, encoding="utf-8")
    places = ("--base", base, "--python", PYTHON, "--find-links", str(wheels), "--offline", "--keep-torch")
    return bringup("image", "small.toml", *places, "--engine", "buildah", *more, folder=folder)


def inside(name: str, *words: str) -> str:
    container = buildah("from", "--pull-never", name)
    try:
        # A chroot on a busy machine now and then loses what a short program prints: asked again.
        answers = (buildah("run", container, "--", *words) for _ in range(3))
        return next((answer for answer in answers if answer), "")
    finally:
        buildah("rm", container)


@pytest.mark.parametrize("engine", ["buildah", "podman"])
def test_a_small_recipe_becomes_an_image(engine: str, base: str, wheels: Path, tmp_path: Path) -> None:
    """podman builds in the same store, in a chroot as well: both read the two variables of `store`."""
    ran = image(tmp_path, RECIPE, base, wheels, "--build", "--json", "--engine", engine)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    document = json.loads(ran.stdout)
    assert document["built"] is True
    assert "COPY --from=site" in Path(tmp_path, document["log"]).read_text()
    # Progress goes to standard error while it builds.
    assert re.search(r"\[ *\d/\d\] COPY --from=site", ran.stderr)
    name = f"localhost/{document['tag']}"
    # One layer on the base's one: what is copied and what is taken away stand in the same.
    layers = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]["rootfs"]["diff_ids"]
    assert len(layers) == 2
    base_layers = json.loads(buildah("inspect", "--type", "image", base))["OCIv1"]["rootfs"]["diff_ids"]
    assert layers[:1] == base_layers
    question = (
        "import idna, json, markupsafe, sys; from importlib import metadata as m; "
        "print(json.dumps([idna.__version__, idna.__file__, markupsafe.__file__, "
        "sorted((d.name, d.version) for d in m.distributions()), sys.path]))"
    )
    version, file, kept, listed, path = json.loads(inside(name, PYTHON, "-c", question))
    assert version == "3.7"
    assert file.startswith("/opt/bringup/site/")
    assert not kept.startswith("/opt/bringup")
    names = [row[0] for row in listed]
    assert names.count("idna") == 1
    assert "toml" not in names
    assert path.index(file.rpartition("/idna/")[0]) == path.index(kept.rpartition("/markupsafe/")[0]) - 1
    # What the builder needed is not in it: no pip of ours, no context, no cache, no secrets.
    assert inside(name, "find", "/tmp") == "/tmp"
    assert set(inside(name, "ls", "/opt/bringup").split()) == {
        *("bin", "site", "finish.py", "image.json", "lock.txt", "removed.txt")
    }
    assert inside(name, "cat", "/opt/bringup/lock.txt").startswith("idna==3.7 --hash=sha256:")
    there = inside(name, "ls", "/", "/etc", "/run")
    assert not re.search(r"pip\.conf|bringup-ca|changes|wheels0|^bringup$", there, re.MULTILINE)


def test_the_written_script_builds_it_too(base: str, wheels: Path, tmp_path: Path) -> None:
    document = json.loads(image(tmp_path, RECIPE, base, wheels, "--json").stdout)
    assert document["built"] is False
    buildah("rmi", "--force", f"localhost/{document['tag']}", check=False)
    ran = subprocess.run(
        ["sh", str(tmp_path / document["folder"] / "build.sh")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert buildah("images", "--quiet", f"localhost/{document['tag']}")


@pytest.mark.parametrize(
    ("change", "explained", "words"),
    [
        (("idna==3.7", "idna==9.9"), "pip-no-match", "idna==9.9"),
        (('"markupsafe"', '"no_such_module"'), "missing-module", "no_such_module"),
    ],
    ids=["a version that is nowhere", "a proof that fails"],
)
def test_failures_are_explained(
    change: tuple[str, str], explained: str, words: str, base: str, wheels: Path, tmp_path: Path
) -> None:
    ran = image(tmp_path, RECIPE.replace(*change), base, wheels, "--build")
    assert ran.returncode == 1
    assert explained in ran.stderr
    assert words in ran.stderr
    assert "build.log" in ran.stderr
    assert "Traceback" not in ran.stderr.replace("Traceback (most recent call last)", "")


def test_sources_in_the_base_are_edited_and_only_changed_files_copied(base: str, tmp_path: Path) -> None:
    """With the user's own index: pip's configuration reaches the builder as a secret."""
    (tmp_path / "lab.toml").write_text(LAB_RECIPE, encoding="utf-8")
    ran = bringup(
        "image", "lab.toml", "--keep-torch", "--build", "--engine", "buildah", "--json", folder=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    name = f"localhost/{json.loads(ran.stdout)['tag']}"
    assert inside(name, PYTHON, "/opt/lab/say.py") == "goodbye"
    assert 'torch.load("a.pt", weights_only=True)' in inside(name, "cat", "/opt/lab/net.py")
    dates = inside(name, "ls", "-l", "--full-time", "/opt/lab").splitlines()
    of = {line.split()[-1]: " ".join(line.split()[5:7]) for line in dates if line.endswith(".py")}
    assert of["other.py"] < of["say.py"]


def test_a_local_copy_is_laid_over_the_code_of_the_base(base: str, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(LAB_RECIPE, encoding="utf-8")
    (tmp_path / "my copy").mkdir()
    (tmp_path / "my copy" / "say.py").write_text('print("hello from here")\n')
    words = ("--keep-torch", "--build", "--engine", "buildah", "--json", "--source", "my copy")
    ran = bringup("image", "lab.toml", *words, folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    name = f"localhost/{json.loads(ran.stdout)['tag']}"
    assert inside(name, PYTHON, "/opt/lab/say.py") == "goodbye from here", "the copy, with the recipe's edits"
    assert inside(name, "cat", "/opt/lab/other.py") == "x = 1", "what the copy has not is the base's"


def test_a_base_that_is_not_there(wheels: Path, store: Path, tmp_path: Path) -> None:
    ran = image(tmp_path, RECIPE, "localhost/no-such-base:1", wheels, "--build")
    assert ran.returncode == 1
    assert "localhost" in ran.stderr


def test_clean_takes_the_intermediate_images_and_keeps_the_final_one(store: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("x")
    for name in (*INTERMEDIATE, FINAL):
        commit(root, name)
    listed = json.loads(bringup("clean", "--json", folder=tmp_path).stdout)["items"]
    # podman and buildah have one store here: each image stands in the list once.
    images = sorted(row["image"] for row in listed if row["image"])
    assert images == sorted(INTERMEDIATE)
    cleaned = bringup("clean", "--yes", folder=tmp_path)
    assert cleaned.returncode == 0, cleaned.stdout
    left = buildah("images", "--format", "{{.Name}}:{{.Tag}}")
    assert FINAL in left
    assert not any(name in left for name in INTERMEDIATE)
