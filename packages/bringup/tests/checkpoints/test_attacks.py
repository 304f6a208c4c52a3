"""No checkpoint runs code here, whatever trick it uses; and its verdict says what it would have done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bringup.checkpoints import convert, open_checkpoint
from bringup.errors import BringupError

from . import attacks

_EVENTS: list[str] | None = None
_FORBIDDEN = ("import", "exec", "compile", "os.", "subprocess.", "pickle.", "ctypes.", "socket.", "shutil.")
_ALLOWED = (
    "os.putenv",
    "os.unsetenv",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.rename",
    "os.fwalk",
)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _EVENTS is not None and event.startswith(_FORBIDDEN) and event not in _ALLOWED:
        _EVENTS.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_hook)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What the interpreter reports of imports, executions, processes and sockets during the test."""
    global _EVENTS
    Path(attacks.FLAG).unlink(missing_ok=True)
    _EVENTS = []
    try:
        yield _EVENTS
    finally:
        _EVENTS = None
    assert not Path(attacks.FLAG).exists()


def test_the_watch_sees_what_a_pickle_does(watched: list[str]) -> None:
    import pickle

    pickle.loads(b"cos\ngetcwd\n)R.")
    assert any(event.startswith("pickle.find_class") for event in watched)


@pytest.mark.parametrize("name", attacks.CALLS)
def test_calls_are_named_and_never_made(name: str, tmp_path: Path, watched: list[str]) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(attacks.CALLS[name])
    try:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.verdict == "unneeded-calls", [str(use) for use in checkpoint.globals]
            assert checkpoint.tree is not None or checkpoint.root is None
        with pytest.raises(BringupError, match="checkpoint-unneeded-calls"):
            convert(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    except BringupError as error:
        assert error.id == "checkpoint-malformed"
    assert watched == []


@pytest.mark.parametrize(
    "name", [name for name in attacks.CALLS if name not in attacks.AFTER_THE_FIRST_PICKLE]
)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_the_same_inside_torch_files(
    name: str, container: str, tmp_path: Path, watched: list[str], save: Callable[..., Path]
) -> None:
    """The attack as the pickle of an archive, and before the storages of a legacy stream."""
    path = tmp_path / "evil.pt"
    if container == "zip":
        writer = torch._C.PyTorchFileWriter(str(path))
        for record, data in (("data.pkl", attacks.CALLS[name]), ("byteorder", b"little")):
            writer.write_record(record, data, len(data))
        writer.write_end_of_file()
    else:
        import pickle

        head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(head + attacks.CALLS[name] + pickle.dumps([], 2))
    watched.clear()
    try:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.verdict == "unneeded-calls"
    except BringupError as error:
        assert error.id == "checkpoint-malformed"
    assert watched == []


@pytest.mark.parametrize("name", attacks.DAMAGED)
def test_damaged_pickles_are_refused(name: str, tmp_path: Path, watched: list[str]) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(attacks.DAMAGED[name])
    with pytest.raises(BringupError) as caught, open_checkpoint(path) as checkpoint:
        assert checkpoint.tree is None
    assert caught.value.id in ("checkpoint-malformed", "checkpoint-truncated", "checkpoint-limit")
    assert caught.value.parameters["file"] == str(path)
    assert watched == []


@pytest.mark.parametrize("gadget", attacks.GADGETS)
def test_published_gadgets(gadget: str, tmp_path: Path, watched: list[str]) -> None:
    """By GLOBAL with the module that Python would import, and by getattr on what stands before the last dot."""
    module, _, name = gadget.rpartition(".")
    path = tmp_path / "evil.pkl"
    for maker in (
        attacks.stacked(module, name),
        attacks.stacked(module.split(".")[0], gadget.partition(".")[2]),
        attacks.called(
            attacks.named("builtins", "getattr"), attacks.named(*_split(module)), attacks.text(name)
        ),
    ):
        path.write_bytes(b"\x80\x04" + attacks.called(maker, attacks.text("x")) + b".")
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.verdict == "unneeded-calls", [str(use) for use in checkpoint.globals]
    assert watched == []


def _split(dotted: str) -> tuple[str, str]:
    module, _, name = dotted.rpartition(".")
    return (module, name) if module else ("importlib", dotted)


class _Loud:
    """A class with every hook that unpickling would call."""

    def __new__(cls, *arguments: Any) -> Any:
        Path(attacks.FLAG).touch()
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        Path(attacks.FLAG).touch()

    def __getnewargs__(self) -> tuple[int]:
        return (1,)

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}

    def __setitem__(self, key: Any, value: Any) -> None:
        Path(attacks.FLAG).touch()

    def append(self, item: Any) -> None:
        Path(attacks.FLAG).touch()


def test_importable_classes_are_not_built_either(tmp_path: Path, watched: list[str], save: Any) -> None:
    path = save({"w": torch.ones(2), "x": _Loud()})
    Path(attacks.FLAG).unlink(missing_ok=True)
    watched.clear()
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.verdict == "unknown-classes"
        assert checkpoint.tree["x"]["state"] == {"a": 1}
    assert watched == []


def test_tensors_of_a_hostile_file_can_be_taken_out(tmp_path: Path, watched: list[str], save: Any) -> None:
    from safetensors.torch import load_file

    path = save({"w": torch.arange(3.0), "x": attacks.Reducing(eval, ("1/0",))})
    with pytest.raises(BringupError) as caught:
        convert(path, tmp_path / "out")
    assert caught.value.parameters["names"] == "builtins.eval"
    watched.clear()
    done = convert(path, tmp_path / "out", accept_calls=True)
    assert not [event for event in watched if not event.startswith(("os.", "shutil."))]
    assert load_file(done.files[0])["w"].tolist() == [0, 1, 2]


def test_nested_checkpoints_are_judged_too(tmp_path: Path, watched: list[str]) -> None:
    import pickle

    head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    inner = head + attacks.CALLS["reduce"] + pickle.dumps([], 2)
    data = b"\x8e" + len(inner).to_bytes(8, "little") + inner
    path = tmp_path / "x.pkl"
    path.write_bytes(attacks.called(attacks.named("torch.storage", "_load_from_bytes"), data) + b".")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.verdict == "unneeded-calls"


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    inner = b"N."
    for _ in range(10):
        data = b"\x8e" + len(inner).to_bytes(8, "little") + inner
        inner = b"\x80\x04" + attacks.called(attacks.named("torch.storage", "_load_from_bytes"), data) + b"."
    path = tmp_path / "x.pkl"
    path.write_bytes(inner)
    with pytest.raises(BringupError, match="nested-pickles"), open_checkpoint(path):
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]q\x00h\x00a.",
        b"\x80\x02}q\x00" + attacks.text("self") + b"h\x00s.",
        b"\x80\x02]q\x00" + b"(h\x00h\x00h\x00e" + b".",
    ],
)
def test_values_that_contain_themselves(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint:
        assert "$same_as" in str(checkpoint.tree)


def test_a_module_that_contains_itself(save: Callable[..., Path]) -> None:
    module = torch.nn.Module()
    module.register_parameter("w", torch.nn.Parameter(torch.ones(1)))
    module._modules["inner"] = torch.nn.Module()
    module._modules["inner"]._modules["outer"] = module
    with open_checkpoint(save(module)) as checkpoint, pytest.raises(BringupError, match="depth"):
        _ = checkpoint.tensors


def test_terminal_codes_in_names_are_shown_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(attacks.called(attacks.stacked("os\x1b[2J", "system"), attacks.text("x")) + b".")
    with pytest.raises(BringupError) as caught:
        convert(path, tmp_path / "out")
    assert "\x1b" not in str(caught.value.parameters) and "\\x1b[2J" in caught.value.parameters["names"]
