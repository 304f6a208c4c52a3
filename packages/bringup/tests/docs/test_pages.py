"""The pages for people: every command on them exists, those marked `run` are run, every error text is known.

A fenced block says what its commands need: `sh run` nothing (they are run here), `sh gpu` a GPU, `sh net` a
network and gigabytes, `sh slow` minutes. Of the last three, verbs and options are compared with `--help`.
Commands in words and tables are run as well, but for those that a sentence of the page marks.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
import venv
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from bringup.cli.main import run as bringup

DOCS = Path(__file__).parents[4] / "docs"
NAMES = [
    "workloads/triposr",
    "workloads/gaussian-splatting",
    "workloads/deepprep",
    "workloads/prostate-ssl",
    "blackwell",
]
PAGES = [f"{name}{suffix}" for name in NAMES for suffix in (".md", ".zh-CN.md")]
FAILURES = ("When it fails", "Symptoms", "出错时", "症状")
# Manual scripts that must be named, each on its page, with what is run in its place.
SCRIPTS = {
    "workloads/deepprep": ("extract_state_dicts.py", "rebuild_models.py"),
    "workloads/triposr": ("safe_install_torchmcubes.sh", "cuda_reinstall.sh", "wsl_performance_monitor.sh"),
    "workloads/gaussian-splatting": ("fix_rtx5090_pytorch.sh", "install_pytorch_from_source.sh"),
}
PROGRAMS = {
    "bringup": ["-c", "from bringup.cli.main import main; main()"],
    "prostate-ssl": ["-c", "from prostate_ssl.cli.main import main; main()"],
    "portable-kernels": ["-m", "portable_kernels"],
}


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, list[str]]]:
    """(what it needs, its commands) of every fenced block."""
    found = re.findall(r"^```sh (\w+)\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)
    shown = len(re.findall(r"^```text\n", read(page), re.MULTILINE))  # output, not commands
    assert len(found) + shown == read(page).count("```") / 2, "a block does not say what it needs"
    return [(needs, [line for line in text.splitlines() if line.strip()]) for needs, text in found]


def commands(page: str) -> list[str]:
    """Commands in blocks, and those in words that give an option or are whole."""
    named = re.findall(r"`((?:bringup|prostate-ssl|portable-kernels) [^`\n]+)`", read(page))
    return [line for _, lines in blocks(page) for line in lines] + named


@cache
def options_of(program: str, words: tuple[str, ...]) -> str | None:
    """The help of a (sub)command; None if there is no such one."""
    if program == "bringup":
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            code = bringup([*words, "--help"])
        return shown.getvalue() if code == 0 else None
    command = [sys.executable, *PROGRAMS[program], *words, "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return ran.stdout if ran.returncode == 0 else None


def check_command(line: str) -> None:
    """Verb, subcommand and options exist; what stands after `--` is another program's or the workload's."""
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program, *rest = words
    assert program in PROGRAMS, line
    if "--" in rest:
        inner = rest[rest.index("--") + 1 :]
        rest = rest[: rest.index("--")]
        if inner and inner[0] in PROGRAMS:
            check_command(shlex.join(inner))
    help_text = options_of(program, tuple(rest[:1]))
    assert help_text is not None, f"{line}: there is no {program} {rest[0]}"
    if re.search(r"COMMAND \[ARGS\]", help_text) and len(rest) > 1:
        help_text = options_of(program, tuple(rest[:2]))
        assert help_text is not None, f"{line}: there is no {program} {' '.join(rest[:2])}"
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_text))
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{line}: {word} is no option"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    found = commands(page)
    assert found
    for line in found:
        check_command(line)


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_give_the_same_commands(name: str) -> None:
    english, chinese = f"{name}.md", f"{name}.zh-CN.md"
    assert blocks(english) == blocks(chinese)
    assert sorted(commands(english)) == sorted(commands(chinese))
    assert failures(english) == failures(chinese)


@pytest.mark.parametrize("page", [page for page in PAGES if "workloads" in page])
def test_a_workloads_page_begins_with_the_one_command(page: str) -> None:
    (first, *_) = blocks(page)[0][1]
    recipe = Path(page).name.partition(".")[0]
    assert first.startswith(f"bringup up {recipe} ")
    assert read(page).index("```") < 600
    last = read(page).rpartition("\n## ")[2]
    assert last.splitlines()[0] in FAILURES  # and ends with the failure table


def failures(page: str) -> list[str]:
    """The error texts of the failure table: first columns that are code."""
    texts = []
    for section in re.split(r"^## ", read(page), flags=re.MULTILINE):
        if section.splitlines()[0] in FAILURES:
            texts += re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_every_error_text_is_explained(name: str, tmp_path: Path) -> None:
    texts = failures(f"{name}.md")
    assert len(texts) >= 5
    for text in texts:
        log = tmp_path / "log.txt"
        log.write_text(f"first line\n{text}\nlast line\n")
        assert bringup(["explain", str(log), "--json"]) == 0, text


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_of_the_manual_ways_are_replaced(name: str) -> None:
    for suffix in (".md", ".zh-CN.md"):
        rows = [line for line in read(f"{name}{suffix}").splitlines() if line.startswith("|")]
        for script in SCRIPTS[name]:
            (row,) = (line for line in rows if script in line.split("|")[1])
            assert "bringup " in row.split("|")[2], row


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read(page)):
        assert (DOCS / page).parent.joinpath(target).is_file(), f"{page} → {target}"


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_listed(name: str) -> None:
    index = read("README.md")
    assert f"({name}.md)" in index and f"({name}.zh-CN.md)" in index


def save_image(path: Path, library: Path) -> None:
    """An image of one layer with one library, as `docker save` writes it."""
    layer, config, manifest = (path.with_name(name) for name in ("layer.tar", "config.json", "manifest.json"))
    with tarfile.open(layer, "w") as tar:
        site = "usr/local/lib/python3.11/site-packages"
        tar.add(library, f"{site}/library.so")
        metadata = b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
        member = tarfile.TarInfo(f"{site}/thing-1.0.dist-info/METADATA")
        member.size = len(metadata)
        tar.addfile(member, io.BytesIO(metadata))
    config.write_text(json.dumps({"architecture": "amd64", "os": "linux", "config": {}}))
    manifest.write_text(json.dumps([{"Config": config.name, "RepoTags": ["a:1"], "Layers": [layer.name]}]))
    with tarfile.open(path, "w") as tar:
        for part in (layer, config, manifest):
            tar.add(part, part.name)
            part.unlink()


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages' examples name: a dataset, a licence, a mesh, a model's folder, a library."""
    (tmp_path / "BIDS" / "sub-01").mkdir(parents=True)
    (tmp_path / "license.txt").write_text("a@example.org\n1\n*k\n")
    mesh = tmp_path / "output" / "0" / "mesh.obj"
    mesh.parent.mkdir(parents=True)
    mesh.write_text("v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n")
    cloud = tmp_path / "output" / "scene" / "point_cloud" / "iteration_30000" / "point_cloud.ply"
    cloud.parent.mkdir(parents=True)
    header = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {a}\n" for a in "xyz")
    cloud.write_text(f"{header}end_header\n0 0 0\n1 1 1\n")
    old = tmp_path / "model_files" / "fsaverage3" / "lh_NoRigid_904_fsaverage3.model"
    old.parent.mkdir(parents=True)
    torch.save({"model": torch.nn.Linear(3, 2)}, old)  # a whole module, pickled
    torch.save({"plans": {"patch_size": np.ones(3)}, "state_dict": {}}, tmp_path / "lh_model.pth")
    import pydantic_core

    library = next(Path(pydantic_core.__file__).parent.glob("_pydantic_core*.so"))
    (tmp_path / "library.so").write_bytes(library.read_bytes())
    for name in ("DIR", "TripoSR", "DeepPrep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("import torch\nmodel = torch.load('model.ckpt')\n")
    (tmp_path / "build.log").write_text("nvcc fatal   : Unsupported gpu architecture 'compute_120'\n")
    venv.create(tmp_path / "ENVIRONMENT", with_pip=False)
    save_image(tmp_path / "deepprep.tar", library)
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("BRINGUP_LANG", "en")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MARK = re.compile(r"^.*(?:need a GPU or a network|需要 GPU 或网络).*$", re.MULTILINE)


def is_marked(line: str, page: str) -> bool:
    """Whether the page says that this command needs more than a test has."""
    (sentence,) = MARK.findall(read(page))
    marks = re.findall(r"`([^`]+)`", sentence)
    _, *words = shlex.split(line)
    return any(words[: len(mark.split())] == mark.split() or mark in words[1:] for mark in marks)


def in_words(page: str) -> list[str]:
    """Whole commands of bringup outside of blocks that nothing marks; a bare verb is a name, not a command."""
    whole = ("doctor", "clean", "wsl", "monitor")
    shown = {line for _, lines in blocks(page) for line in lines}
    named = [line for line in commands(page) if line not in shown and line.startswith("bringup ")]
    named = [line for line in named if not is_marked(line, page)]
    return [line for line in named if len(line.split()) > 2 or line.split()[1] in whole]


IN_BLOCKS = {line for page in PAGES for needs, lines in blocks(page) for line in lines if needs == "run"}
RUNNABLE = sorted(IN_BLOCKS.union(*map(in_words, PAGES)))


def _with_its_cost(line: str) -> object:
    """`image` asks the index for the size of every layer: most of a minute."""
    return pytest.param(line, marks=pytest.mark.slow) if line.startswith("bringup image") else line


@pytest.mark.parametrize("line", [_with_its_cost(line) for line in RUNNABLE])
def test_commands_that_need_nothing_are_run(line: str, prepared: Path) -> None:
    program, *words = shlex.split(line)
    # As a shell does it.
    words = [
        name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    if words[0] == "monitor":  # it goes on until somebody ends it
        words += ["--duration", "0.5"]
    command = [sys.executable, *PROGRAMS[program], *words]
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=prepared, timeout=300, stdin=subprocess.DEVNULL
    )
    # The doctor finds what is wrong with the environment of the tests: that is its work.
    # What stands in .wslconfig concerns Windows and WSL2; anywhere else bringup says so.
    elsewhere = words[0] == "wsl" and "neither WSL2 nor Windows" in " ".join(ran.stderr.split())
    allowed = (0, 1) if words[0] == "doctor" else (2,) if elsewhere else (0,)
    assert ran.returncode in allowed, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert ran.stdout.strip() or elsewhere


@pytest.mark.parametrize("page", PAGES)
def test_only_what_needs_more_is_marked(page: str) -> None:
    """The sentence speaks of verbs that no test can try here, and the page has commands of both kinds."""
    (sentence,) = MARK.findall(read(page))
    assert not re.findall(
        r"`(?:doctor|scan|explain|rewrite|convert|view|clean|monitor|wsl|recipes)`", sentence
    )
    assert all(is_marked(line, page) for line in commands(page) if line.startswith("bringup up "))


def test_the_examples_leave_what_they_promise(prepared: Path) -> None:
    words = ["view", "output/0/mesh.obj", "-o", "mesh.html", "--png", "mesh.png", "--json"]
    ran = subprocess.run([sys.executable, *PROGRAMS["bringup"], *words], capture_output=True, text=True)
    assert json.loads(ran.stdout)["triangles"] == 1
    assert (prepared / "mesh.html").is_file() and (prepared / "mesh.png").is_file()
