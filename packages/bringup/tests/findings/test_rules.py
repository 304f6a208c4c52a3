"""Each rule on a real broken environment, and silence on healthy ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bringup.facts.machine import MachineFacts
from bringup.findings.error_texts import explain
from bringup.findings.model import NamedGpu
from bringup.report.doctor import sentence

from .conftest import FIXTURES, Broken
from .examining import A100, GTX_680, GTX_1080, H200, K80, RTX_5090, V100, examine, ids


def test_nothing_wrong_with_the_environment_of_the_tests(machine: MachineFacts) -> None:
    assert ids(examine(machine, Path(sys.prefix)), "error") == []


@pytest.mark.parametrize(
    ("file", "gpu", "expected"),
    [
        ("two-units.so", H200, ["no-kernel-image"]),
        ("two-units.so", RTX_5090, ["partial-kernel-images"]),
        ("two-units.so", A100, []),
        ("ptx-only.so", RTX_5090, ["ptx-only"]),
        ("many.so", RTX_5090, []),
        ("compressed-size.so", H200, ["no-kernel-image"]),
        ("family.so", RTX_5090, []),
        ("optional-unit.so", RTX_5090, ["no-kernel-image"]),
        ("unlinked.o", RTX_5090, []),
    ],
)
def test_images_of_an_extension(
    file: str, gpu: NamedGpu, expected: list[str], broken: Broken, machine: MachineFacts
) -> None:
    broken.torch(library=FIXTURES / "many.so")
    broken.distribution("fast-thing", "1.0", {f"fast_thing/_C{Path(file).suffix}": FIXTURES / file})
    findings = examine(machine, broken.root, gpu)
    assert [row.id for row in findings if row.subject == "fast-thing"] == expected


def test_torch_without_the_chip_says_what_torch_would(broken: Broken, machine: MachineFacts) -> None:
    broken.torch("2.0.1+cu117", "11.7", FIXTURES / "optional-unit.so")
    (finding,) = examine(machine, broken.root, RTX_5090)
    assert (finding.id, finding.severity, finding.subject) == ("no-kernel-image", "error", "torch")
    assert "sm_120 is not compatible with the current PyTorch installation" in finding.error_text
    assert "no kernel image is available" in finding.error_text
    assert "pip install torch==" in finding.fix


def test_torch_and_its_companions_are_changed_together(broken: Broken, machine: MachineFacts) -> None:
    broken.torch("2.0.1+cu117", "11.7", FIXTURES / "optional-unit.so")
    broken.distribution("torchvision", "0.15.2", {"torchvision/_C.so": FIXTURES / "ptx-only.so"})
    fixes = {row.subject: row.fix for row in examine(machine, broken.root, RTX_5090)}
    assert fixes["torch"] == fixes["torchvision"]
    assert "torch==" in fixes["torch"]
    assert "torchvision==" in fixes["torch"]


def test_a_shim_is_offered_where_there_is_one(broken: Broken, machine: MachineFacts) -> None:
    broken.torch(library=FIXTURES / "many.so")
    broken.distribution("torchmcubes", "0.1.0", {"torchmcubes/_m.so": FIXTURES / "two-units.so"})
    (finding,) = examine(machine, broken.root, H200)
    assert finding.fix.startswith("portable-kernels install --shim torchmcubes")


def test_an_extension_that_dies_of_something_else(broken: Broken, machine: MachineFacts) -> None:
    """The compiled rasteriser ignores failed launches: only with `--debug` does it say «no kernel image»."""
    broken.torch(library=FIXTURES / "many.so")
    name = "diff_gaussian_rasterization"
    broken.distribution(name, "0.0.0", {f"{name}/_C.so": FIXTURES / "two-units.so"})
    (finding,) = examine(machine, broken.root, H200)
    assert finding.id == "no-kernel-image"
    first, second = finding.error_text.splitlines()
    assert [row.id for row in explain(first.encode())] == ["no-kernel-image"]
    assert [row.id for row in explain(second.encode())] == ["absurd-allocation"]


def test_cpu_torch_and_a_gpu(broken: Broken, machine: MachineFacts) -> None:
    broken.torch("2.13.0+cpu", None)
    assert ids(examine(machine, broken.root, RTX_5090)) == ["cpu-build-of-torch"]
    assert ids(examine(machine, broken.root)) == []


@pytest.mark.parametrize(
    ("torch", "cuda", "driver", "gpu", "expected"),
    [
        ("2.11.0", "13.0", "570.86.10", H200, ["driver-too-old"]),
        ("2.11.0", "13.0", "580.65.06", H200, []),
        ("2.7.0+cu128", "12.8", "525.60.13", H200, []),
        ("2.7.0+cu128", "12.8", "520.61.05", H200, ["driver-too-old"]),
        ("2.7.0+cu128", "12.8", "560.35.03", RTX_5090, ["chip-newer-than-driver"]),
    ],
)
def test_drivers(
    torch: str,
    cuda: str,
    driver: str,
    gpu: NamedGpu,
    expected: list[str],
    broken: Broken,
    machine: MachineFacts,
) -> None:
    broken.torch(torch, cuda)
    assert ids(examine(machine, broken.root, gpu, driver=driver)) == expected


@pytest.mark.parametrize(
    ("version", "torch", "expected"),
    [
        ("2.1.2+pt20cu118", "2.7.0+cu128", ["local-version-contradiction"]),
        ("2.1.2+pt27cu118", "2.7.0+cu128", ["local-version-contradiction"]),
        ("2.1.2+pt27cu128", "2.7.0+cu128", []),
        ("2.1.2+pt27cu128", "2.7.1+cu128", []),
        ("2.1.2", "2.7.0+cu128", []),
        ("2.1.2+portable", "2.7.0+cu128", []),
    ],
)
def test_local_versions(
    version: str, torch: str, expected: list[str], broken: Broken, machine: MachineFacts
) -> None:
    broken.torch(torch, "12.8")
    broken.distribution("torch-scatter", version)
    assert ids(examine(machine, broken.root)) == expected


def test_companion_of_another_release(broken: Broken, machine: MachineFacts) -> None:
    broken.torch("2.7.0+cu128", "12.8")
    broken.distribution("torchvision", "0.15.2", metadata="Requires-Dist: torch (==2.0.1)\n")
    (finding,) = examine(machine, broken.root)
    assert finding.id == "companion-of-another-release"
    assert "torchvision==0.22.0" in finding.fix


def test_cuda_torchvision_beside_cpu_torch(broken: Broken, machine: MachineFacts) -> None:
    broken.torch("2.13.0+cpu", None)
    broken.distribution("torchvision", "0.28.0", {"torchvision/_C.so": FIXTURES / "many.so"})
    assert ids(examine(machine, broken.root)) == ["built-for-another-torch"]


@pytest.mark.parametrize(
    ("torch", "cuda", "expected"),
    [
        ("2.11.0+cu130", "13.0", ["built-for-another-torch"]),
        ("2.10.0+cu128", "12.8", []),
        ("2.10.0+cu126", "12.6", []),
        ("2.10.0+cu130", "13.0", ["built-for-another-torch"]),
        ("2.10.0+cpu", None, ["built-for-another-torch"]),
    ],
)
def test_xformers_record(
    torch: str, cuda: str | None, expected: list[str], broken: Broken, machine: MachineFacts
) -> None:
    broken.torch(torch, cuda)
    record = json.dumps({"version": {"cuda": 1208, "torch": "2.10.0+cu128", "python": "3.10.19"}})
    broken.distribution("xformers", "0.0.35", {"xformers/cpp_lib.json": record})
    assert ids(examine(machine, broken.root)) == expected


def torch_extension(compiled: Callable[..., Path], folder: Path, call: str) -> Path:
    source = f"void {call}(void); void PyInit__C(void) {{ {call}(); }}"
    options = ("-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", f"-L{folder}", "-lc10", "-ltorch_cpu")
    return compiled("ext", source, *options)


def with_real_torch(broken: Broken, folder: Path) -> None:
    broken.torch("2.13.0+cpu", None)
    (broken.site / "torch" / "lib").mkdir()
    for name in ("libc10.so", "libtorch_cpu.so"):
        (broken.site / "torch" / "lib" / name).symlink_to(folder / name)


def test_undefined_symbol(
    broken: Broken, machine: MachineFacts, compiled: Callable[..., Path], torch_library_folder: Path
) -> None:
    with_real_torch(broken, torch_library_folder)
    gone = torch_extension(compiled, torch_library_folder, "_ZN3c106detail18noSuchFunctionEverEv")
    broken.distribution("old-ext", "1.0", {"old_ext/_C.so": gone})
    (finding,) = examine(machine, broken.root)
    assert (finding.id, finding.subject) == ("undefined-symbol", "old-ext")
    assert "undefined symbol: _ZN3c106detail18noSuchFunctionEverEv" in finding.error_text


def test_defined_symbol(
    broken: Broken, machine: MachineFacts, compiled: Callable[..., Path], torch_library_folder: Path
) -> None:
    with_real_torch(broken, torch_library_folder)
    there = torch_extension(
        compiled,
        torch_library_folder,
        "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    )
    broken.distribution("good-ext", "1.0", {"good_ext/_C.so": there})
    assert ids(examine(machine, broken.root)) == []


def test_wrong_python(broken: Broken, machine: MachineFacts, compiled: Callable[..., Path]) -> None:
    module = compiled("m", "void PyInit_m(void) {}")
    broken.distribution("m", "1.0", {"m.cpython-38-x86_64-linux-gnu.so": module})
    assert ids(examine(machine, broken.root)) == ["wrong-python-abi"]
    here = f"m.cpython-{sys.version_info.major}{sys.version_info.minor}-x86_64-linux-gnu.so"
    (broken.site / here).write_bytes(module.read_bytes())
    assert ids(examine(machine, broken.root)) == []


@pytest.mark.parametrize("scripts", [True, False], ids=["venv", "conda"])
def test_a_windows_environment_is_mended_with_its_own_python(
    scripts: bool, tmp_path: Path, machine: MachineFacts
) -> None:
    root = tmp_path / "env"
    site = root / "Lib" / "site-packages"
    (site / "torch").mkdir(parents=True)
    python = root / "Scripts" / "python.exe" if scripts else root / "python.exe"
    python.parent.mkdir(exist_ok=True)
    python.write_bytes(b"MZ")
    (root / "python311.dll").write_bytes(b"MZ")
    if scripts:
        (root / "pyvenv.cfg").write_text("home = C:\\Python311\nversion = 3.11.9\n")
    (site / "torch" / "version.py").write_text("__version__ = '2.7.0+cpu'\ncuda = None\n")
    (finding,) = examine(machine, root, RTX_5090)
    inside = "\\Scripts\\python.exe" if scripts else "\\python.exe"
    assert finding.fix.startswith(f'"{root}{inside}" -m pip install torch==')


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("file", "text", "gpu", "expected"),
    [
        ("requirements.txt", "numpy\ntorch==2.0.1\n", RTX_5090, ["impossible-pin"]),
        # The release has builds with code for the chip, the build that is pinned is none of them.
        ("requirements.txt", "torch==2.7.0+cu118\n", RTX_5090, ["impossible-pin"]),
        ("requirements.txt", "torch==2.7.0+cu128\n", RTX_5090, []),
        ("requirements.txt", "torch==2.15.0+cpu\n", RTX_5090, ["impossible-pin"]),
        ("requirements.txt", "torch==2.0.1\n", A100, []),
        ("requirements.txt", "torch>=2.0\n", RTX_5090, []),
        ("requirements.txt", "torch==2.11.0\n", RTX_5090, []),
        ("requirements.txt", "torch==9.9\n", RTX_5090, []),
        ("requirements.txt", "torch==1.10.0\n", RTX_5090, ["impossible-pin"]),
        # Older than the catalog, which knows no build that is too old for the chip.
        ("requirements.txt", "torch==1.10.0\n", V100, []),
        ("requirements.txt", "torch>=2.12\n", V100, ["impossible-pin"]),
        ("requirements.txt", "torch>=2.0\n", V100, []),
        ("requirements.txt", "torch==2.0.1\n", GTX_680, ["chip-without-torch"]),
        ("requirements.txt", "torch\n", GTX_680, ["chip-without-torch"]),
        ("requirements.txt", "torch==2.0.1+cpu\n", GTX_680, []),
        ("requirements.txt", "torch==1.2.0\n", GTX_680, []),
        ("environment.yml", "dependencies:\n  - pytorch=1.13.1\n", RTX_5090, ["impossible-pin"]),
        (
            "pyproject.toml",
            '[project]\nname = "x"\ndependencies = ["torch<2.1"]\n',
            RTX_5090,
            ["impossible-pin"],
        ),
        ("Dockerfile", "RUN pip install torch==2.0.1 && echo\n", RTX_5090, ["impossible-pin"]),
        (
            "setup.py",
            "from setuptools import setup\nsetup(install_requires=['torch==2.0.1'])\n",
            RTX_5090,
            ["impossible-pin"],
        ),
    ],
)
def test_pins(
    file: str, text: str, gpu: NamedGpu, expected: list[str], tmp_path: Path, machine: MachineFacts
) -> None:
    assert ids(examine(machine, None, gpu, project=write(tmp_path / "p", {file: text}))) == expected


@pytest.mark.parametrize(
    ("pin", "gpu", "nearest"),
    [
        ("torch==2.7.1+cu128", V100, "2.7.1+cu126"),
        ("torch==2.7.1+cu128", GTX_1080, "2.7.1+cu126"),
        ("torch==2.7.0+cu118", RTX_5090, "2.7.0+cu128"),
        ("torch==2.0.1", RTX_5090, "2.7.0+cu128"),  # too old: the next newer release
        ("torch==2.15.0", V100, "2.11.0+cu128"),  # too new: the next older one
        ("torch==2.15.0", GTX_1080, "2.11.0+cu126"),
        ("torch>=2.9", K80, "2.7.1+cu118"),
    ],
)
def test_what_an_impossible_pin_is_changed_to(
    pin: str, gpu: NamedGpu, nearest: str, tmp_path: Path, machine: MachineFacts
) -> None:
    project = write(tmp_path / "p", {"requirements.txt": f"{pin}\n"})
    (finding,) = examine(machine, None, gpu, project=project)
    assert (finding.id, finding.parameters["nearest"]) == ("impossible-pin", nearest)
    local = nearest.partition("+")[2]
    assert finding.fix.endswith(f"torch=={nearest} --index-url https://download.pytorch.org/whl/{local}")
    assert nearest in sentence(finding) and "first" not in sentence(finding)


def test_a_pin_is_changed_with_what_hangs_on_it(
    broken: Broken, tmp_path: Path, machine: MachineFacts
) -> None:
    broken.torch("2.7.1+cu128", "12.8")
    broken.distribution("torchvision", "0.22.1")
    project = write(tmp_path / "p", {"requirements.txt": "torch==2.7.1+cu128\n"})
    findings = examine(machine, broken.root, V100, project=project)
    (fix,) = (row.fix for row in findings if row.id == "impossible-pin")
    assert " torch==2.7.1+cu126 torchvision==0.22.1 --index-url" in fix


def test_a_chip_that_no_torch_serves(tmp_path: Path, machine: MachineFacts) -> None:
    project = write(tmp_path / "p", {"requirements.txt": "torch==2.0.1\n"})
    (finding,) = examine(machine, None, GTX_680, project=project)
    assert (finding.severity, finding.subject) == ("error", "GeForce GTX 680")
    assert "sm_30" in sentence(finding) and "1.13.0" in sentence(finding)
    assert finding.fix.endswith("torch --index-url https://download.pytorch.org/whl/cpu")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch\ntorch.load('x')", ["torch-load-call"]),
        ("import torch as t\nt.load(open('x'), map_location=f(1))", ["torch-load-call"]),
        ("from torch import load as tl\ntl('x')", ["torch-load-call"]),
        ("import torch\ntorch.load('x', weights_only=True)", []),
        ("import torch\ntorch.load('x', weights_only=False)", ["torch-load-runs-pickles"]),
        ("import torch\ntorch.load('x', **options)", []),
        ("import json\njson.load(f)", []),
        ("this is no python", []),
    ],
)
def test_torch_load(code: str, expected: list[str], tmp_path: Path, machine: MachineFacts) -> None:
    assert ids(examine(machine, project=write(tmp_path / "p", {"a.py": code}))) == expected


def test_an_extension_that_nobody_imports(tmp_path: Path, machine: MachineFacts) -> None:
    files = {
        "requirements.txt": "torch_sparse\ntorch_scatter\n",
        "a.py": "from torch_scatter import scatter_max\n",
    }
    (finding,) = examine(machine, project=write(tmp_path / "p", files))
    assert (finding.id, finding.subject, finding.fix) == (
        "unused-extension",
        "torch-sparse",
        "python -m pip uninstall -y torch-sparse",
    )


def test_a_pickled_model_of_unknown_classes(broken: Broken, tmp_path: Path, machine: MachineFacts) -> None:
    import pickle
    import types

    module = types.ModuleType("gatunet_model")
    gatunet = type("GatUNet", (), {"__module__": "gatunet_model"})
    module.GatUNet = gatunet  # type: ignore[attr-defined]
    sys.modules["gatunet_model"] = module
    try:
        data = pickle.dumps({"model": gatunet()}, protocol=2)
    finally:
        del sys.modules["gatunet_model"]
    project = write(tmp_path / "p", {"a.py": ""})
    (project / "old.model").write_bytes(data)
    found = examine(machine, broken.root, project=project)
    assert ids(found) == ["unimportable-checkpoint"]
    assert "gatunet_model" in found[0].error_text


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("bitsandbytes", "-m pip install --upgrade --force-reinstall --no-deps bitsandbytes"),
        ("somebodys-thing", "-m pip install --upgrade --force-reinstall --no-deps somebodys-thing"),
        (
            "gsplat",
            "git clone --recursive https://github.com/nerfstudio-project/gsplat gsplat && bringup build ",
        ),
        ("tinycudann", "bringup build ./tinycudann/bindings/torch --gpu sm_120 --env "),
        ("pyg-lib", "-f https://data.pyg.org/whl/torch-2.9.0+cu128.html"),
        ("fused-ssim", "portable-kernels install --shim fused_ssim --env "),
    ],
)
def test_the_command_that_mends_an_extension(
    broken: Broken, machine: MachineFacts, name: str, fix: str
) -> None:
    broken.torch("2.9.1+cu128", "12.8", FIXTURES / "many.so")
    broken.distribution(name, "1.0", {f"{name.replace('-', '_')}/_C.so": FIXTURES / "optional-unit.so"})
    found = [row for row in examine(machine, broken.root, RTX_5090) if row.id == "no-kernel-image"]
    assert [row.subject for row in found] == [name]
    assert fix in found[0].fix


def test_what_hangs_on_another_torch_is_made_anew_with_it(broken: Broken, machine: MachineFacts) -> None:
    broken.torch("2.0.1+cu117", "11.7", FIXTURES / "optional-unit.so")
    broken.distribution("gsplat", "1.0", {"gsplat/_C.so": FIXTURES / "optional-unit.so"})
    fixes = {row.subject: row.fix for row in examine(machine, broken.root, RTX_5090)}
    assert fixes["gsplat"].startswith(f'bringup plan --env "{broken.root}" --gpu sm_120')


def test_no_torch_for_this_python_but_for_another(broken: Broken, machine: MachineFacts) -> None:
    broken.torch("2.0.1+cu117", "11.7", FIXTURES / "optional-unit.so")
    broken.site.parent.rename(broken.site.parent.with_name("python3.8"))
    for program in (broken.root / "bin").glob("python*"):
        program.unlink()
    (broken.root / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.8.18\n")
    (finding,) = examine(machine, broken.root, RTX_5090)
    assert finding.fix.startswith(f'bringup plan --env "{broken.root}" --gpu sm_120')


@pytest.mark.parametrize(
    ("files", "gpu", "expected"),
    [
        # bitsandbytes: one library for each CUDA release, of which the fitting one is loaded.
        ({"libquant_cuda118.so": "optional-unit.so", "libquant_cuda130.so": "many.so"}, RTX_5090, []),
        ({"libquant_cuda118.so": "optional-unit.so", "libquant_cuda121.so": "optional-unit.so"}, RTX_5090, ["error"]),
        # sgl-kernel: one folder for each architecture; and operations for certain chips alone.
        ({"sm90/ops.abi3.so": "optional-unit.so", "sm100/ops.abi3.so": "many.so"}, RTX_5090, []),
        ({"ops.so": "many.so", "fast.so": "family.so"}, H200, ["warning"]),
        ({"fast.so": "family.so"}, H200, ["error"]),
        # Digits alone make no variants.
        ({"part1.so": "optional-unit.so", "part2.so": "many.so"}, RTX_5090, ["error"]),
    ],
)  # fmt: skip
def test_libraries_of_which_one_is_chosen(
    files: dict[str, str], gpu: NamedGpu, expected: list[str], broken: Broken, machine: MachineFacts
) -> None:
    broken.distribution("quant", "1.0", {f"quant/{name}": FIXTURES / file for name, file in files.items()})
    assert [row.severity for row in examine(machine, broken.root, gpu)] == expected


def test_a_stray_module_beside_modules_for_every_python(broken: Broken, machine: MachineFacts) -> None:
    files: dict[str, Path | str] = {
        "_extra.cpython-36m-x86_64-linux-gnu.so": FIXTURES / "many.so",
        "ops/_ops.abi3.so": FIXTURES / "many.so",
    }
    broken.distribution("ops", "1.0", files)
    assert [(row.id, row.severity) for row in examine(machine, broken.root)] == [
        ("wrong-python-abi", "warning")
    ]
