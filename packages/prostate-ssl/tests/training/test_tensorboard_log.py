"""TensorBoard's thread is quiet about a full disk while a log is open, and `threading.excepthook` is given back."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from prostate_ssl.training.tensorboard_log import TensorBoardLog


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What threads told the hook that a program set before any log was open."""
    heard: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda ended: heard.append(str(ended.exc_value)))
    return heard


class FullDisk:
    """Where TensorBoard's thread writes."""

    def write(self, _data: bytes) -> None:
        raise OSError(28, "No space left on device")


def a_writer_thread_dies() -> None:
    waiting: queue.Queue[bytes] = queue.Queue()
    waiting.put(b"record")
    thread = _AsyncWriterThread(waiting, FullDisk(), 1)
    thread.start()
    thread.join()


def another_thread_dies() -> None:
    def fail() -> None:
        raise OSError("somebody else's")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def test_only_the_writers_thread_is_quiet_and_only_while_a_log_is_open(told, tmp_path):
    opened = TensorBoardLog(tmp_path)
    a_writer_thread_dies()
    another_thread_dies()
    assert told == ["somebody else's"]
    opened.close()
    a_writer_thread_dies()
    assert told[1:] == ["[Errno 28] No space left on device"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_logs_close_in_any_order_and_leave_the_hook_that_was_there(order, told, tmp_path):
    before = threading.excepthook
    logs = [TensorBoardLog(tmp_path / str(number)) for number in range(3)]
    for number in order:
        a_writer_thread_dies()
        logs[number].close()
    assert told == []
    assert threading.excepthook is before


def test_a_hook_that_was_set_in_between_stays(told, tmp_path):
    before = threading.excepthook
    first = TensorBoardLog(tmp_path / "first")
    below, theirs = threading.excepthook, []

    def hook(ended: threading.ExceptHookArgs) -> None:
        theirs.append(str(ended.exc_value))
        below(ended)

    threading.excepthook = hook
    second = TensorBoardLog(tmp_path / "second")
    another_thread_dies()
    first.close()
    second.close()
    assert threading.excepthook is hook
    another_thread_dies()
    assert told == theirs == ["somebody else's"] * 2
    # Who set it takes it back, to ours that is closed: that one only passes on, and the next log skips it.
    threading.excepthook = below
    a_writer_thread_dies()
    assert told[2:] == ["[Errno 28] No space left on device"]
    TensorBoardLog(tmp_path / "third").close()
    assert threading.excepthook is before


def test_a_log_that_cannot_be_opened_leaves_the_hook_that_was_there(told, tmp_path):
    before = threading.excepthook
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        TensorBoardLog(tmp_path / "file" / "tensorboard")
    assert threading.excepthook is before


def test_a_log_that_cannot_be_written_says_so_and_leaves_neither_hook_nor_thread(told, tmp_path):
    before, threads = threading.excepthook, set(threading.enumerate())
    opened = TensorBoardLog(tmp_path)
    record_writer = opened._writer.file_writer.event_writer._async_writer._writer
    record_writer.flush = lambda: FullDisk().write(b"")
    opened.scalar("loss", 1.0, 0)
    with pytest.raises(OSError, match="No space left"):
        opened.close()
    assert threading.excepthook is before and told == []
    assert set(threading.enumerate()) <= threads


def test_trainings_of_one_process_leave_the_hook_that_was_there(small_config, told):
    from prostate_ssl.training.trainer import train

    before = threading.excepthook
    for _ in range(2):
        train(small_config, resume=False)
        assert threading.excepthook is before
    assert list((Path(small_config.train.output_dir) / "tensorboard").iterdir())
