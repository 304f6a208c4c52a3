"""The feed: resumption, ranks, samplers' rules, masks, missing modalities, memory, cache."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch

from prostate_ssl.batch import CropBatch
from prostate_ssl.cli.main import run
from prostate_ssl.data import AugmentationSettings, build_feed, make_dataset
from prostate_ssl.data.cache import CaseCache, to_blocks
from prostate_ssl.data.feed import _shape_bound
from prostate_ssl.data.layout import discover_cases
from prostate_ssl.data.order import CaseFacts, SampleOrder, SliceRules, choose_slice, gland_counts
from prostate_ssl.data.resident import gather_planes, load_resident, place_plane
from prostate_ssl.errors import ProstateError

SMALL = AugmentationSettings(global_crops_size=56, local_crops_size=28, local_crops_number=2)
SEQUENCES = ("ax_t2wi", "ax_adc", "ax_dwi")


def _dataset(root: Path, more: str = "", **options: float):
    text = f"ProstateSSL:split=TRAIN:root={root}:random_axes=True:random_slices=True{more}"
    return make_dataset(dataset_str=text, **options)  # type: ignore[arg-type]


def _same(first: CropBatch, second: CropBatch) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def _take(feed, steps: list[int]) -> list[CropBatch]:
    stream = feed.batches(steps[0])
    batches = [next(stream) for _ in range(steps[-1] - steps[0] + 1)]
    return [batches[step - steps[0]] for step in steps]


def test_shapes_and_types(phantoms: Path) -> None:
    batch = _take(build_feed(_dataset(phantoms), SMALL, 4, 0), [0])[0]
    assert batch.global_crops.shape == (8, 3, 56, 56) and batch.global_crops.dtype == torch.float32
    assert batch.local_crops.shape == (8, 3, 28, 28)
    assert batch.masks.shape == (8, 3, 16) and batch.masks.dtype == torch.bool
    assert batch.present.shape == (4, 3) and batch.case_index.shape == (4,)


def test_resuming_needs_the_step_alone(phantoms: Path) -> None:
    whole = _take(build_feed(_dataset(phantoms), SMALL, 4, 7, num_workers=3), [5, 9])
    assert _same(whole[0], _take(build_feed(_dataset(phantoms), SMALL, 4, 7, num_workers=1), [5])[0])
    assert _same(whole[1], _take(build_feed(_dataset(phantoms), SMALL, 4, 7), [9])[0])
    assert not _same(whole[0], _take(build_feed(_dataset(phantoms), SMALL, 4, 8), [5])[0])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_global_batch(phantoms: Path, world: int) -> None:
    """The same cases, crops and masks whatever the number of ranks."""
    one = _take(build_feed(_dataset(phantoms), SMALL, 4, 3), [6])[0]
    parts = [
        _take(build_feed(_dataset(phantoms), SMALL, 4 // world, 3, rank=rank, world_size=world), [6])[0]
        for rank in range(world)
    ]
    assert torch.equal(one.case_index, torch.cat([part.case_index for part in parts]))
    joined = torch.cat([part.global_crops.unflatten(0, (2, -1)) for part in parts], dim=1).flatten(0, 1)
    assert torch.allclose(one.global_crops, joined, atol=1e-5)
    masks = torch.cat([part.masks.unflatten(0, (2, -1)) for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(one.masks, masks)


def test_every_epoch_shows_every_case_once_in_another_order() -> None:
    order = SampleOrder(11, seed=3)
    epochs = [[order.at(slot)[1] for slot in range(11 * e, 11 * e + 11)] for e in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs) and epochs[0] != epochs[1]


def test_slice_rules() -> None:
    mask = np.zeros((8, 10, 12), dtype=bool)
    mask[2, 3:6, 4:8], mask[5, 3, 4] = True, True
    facts = CaseFacts((8, 10, 12), gland_counts(mask))
    free = CaseFacts((8, 10, 12), None)

    def drawn(case: CaseFacts, rules: SliceRules) -> set[tuple[int, int]]:
        return {choose_slice(case, rules, 0, epoch, 0) for epoch in range(300)}

    assert drawn(facts, SliceRules(False, True)) == {(0, 2), (0, 5)}
    assert drawn(facts, SliceRules(False, True, min_roi_voxels=2)) == {(0, 2)}
    assert drawn(facts, SliceRules(False, True, min_roi_voxels=99)) == {(0, 2)}
    assert drawn(facts, SliceRules(False, False)) == {(0, 2)}
    assert drawn(free, SliceRules(False, False)) == {(0, 4)}
    assert drawn(free, SliceRules(False, True)) == {(0, k) for k in range(8)}
    seen = Counter(
        axis for axis, _ in (choose_slice(free, SliceRules(True, True), 0, e, 0) for e in range(900))
    )
    assert all(250 < seen[axis] < 350 for axis in range(3))


def test_missing_modalities_travel_as_absent(copied: Callable[[int], Path]) -> None:
    root = copied(3)
    (root / "phantom_0002" / "ax_adc.nii.gz").unlink()
    for batch in _take(build_feed(_dataset(root), SMALL, 3, 0), [0, 1]):
        row = int((batch.case_index == 1).nonzero())
        assert batch.present.tolist() == [[True, k != row, True] for k in range(3)]
        assert (batch.global_crops.unflatten(0, (2, 3))[:, row, 1] == 0).all()
        assert not batch.masks.unflatten(0, (2, 3))[:, row, 1].any()


def test_percentage_labels_is_nested_and_seeded(phantoms: Path) -> None:
    shown = [
        set(np.flatnonzero(_dataset(phantoms, percentage_labels=share).mask_shown))
        for share in (0, 0.34, 0.5, 1)
    ]
    assert [len(cases) for cases in shown] == [0, 2, 3, 6]
    assert shown[0] < shown[1] < shown[2] < shown[3]
    supervised = make_dataset(dataset_str=f"ProstateSupervised:root={phantoms}", percentage_labels=0.5)
    assert supervised.label_used.sum() == 3 and supervised.mask_shown.all()
    assert sorted(supervised[k][1] for k in range(6)).count(-1) == 3


def test_append_label_mask_adds_one_channel(phantoms: Path) -> None:
    settings = AugmentationSettings(
        global_crops_size=56, local_crops_size=28, local_crops_number=2, append_label_mask=True
    )
    batch = _take(build_feed(_dataset(phantoms), settings, 4, 0), [0])[0]
    assert batch.global_crops.shape == (8, 4, 56, 56)
    assert set(batch.global_crops[:, 3].unique().tolist()) == {0.0, 1.0}
    hidden = _take(build_feed(_dataset(phantoms, percentage_labels=0), settings, 4, 0), [0])[0]
    assert (hidden.global_crops[:, 3] == 0).all()


@pytest.mark.parametrize("name", ["rc", "color_jittering", "bspline", "histogram", "none"])
@pytest.mark.parametrize("foreground", [True, False])
def test_every_augmentation_gives_finite_varied_crops(phantoms: Path, name: str, foreground: bool) -> None:
    settings = AugmentationSettings(
        global_crops_size=56, local_crops_size=28, local_crops_number=2, intensity_aug=name,
        crop_from_tumor_foreground=foreground,
    )  # fmt: skip
    batch = _take(build_feed(_dataset(phantoms), settings, 4, 0), [0])[0]
    assert batch.global_crops.isfinite().all() and batch.local_crops.isfinite().all()
    assert (batch.global_crops.flatten(1).std(dim=1) > 0.05).all()


def test_foreground_crops_always_show_gland(phantoms: Path) -> None:
    def share_with_gland(foreground: bool) -> float:
        settings = AugmentationSettings(
            global_crops_size=56, local_crops_size=28, local_crops_number=8, append_label_mask=True,
            crop_from_tumor_foreground=foreground, local_crops_scale=(0.05, 0.05),
        )  # fmt: skip
        batches = _take(build_feed(_dataset(phantoms), settings, 6, 0), list(range(4)))
        return float(torch.cat([batch.local_crops[:, 3].amax(dim=(1, 2)) for batch in batches]).mean())

    assert share_with_gland(True) > 0.99 and share_with_gland(False) < 0.95


def test_cache_gives_the_same_samples(phantoms: Path, tmp_path: Path) -> None:
    plain = build_feed(_dataset(phantoms), SMALL, 4, 0)
    cached = build_feed(_dataset(phantoms), SMALL, 4, 0, cache=tmp_path / "cache")
    assert all(
        _same(a, b) for a, b in zip(_take(plain, [0, 1, 2, 3]), _take(cached, [0, 1, 2, 3]), strict=True)
    )


def test_resident_slices_are_the_same_slices(phantoms: Path) -> None:
    dataset = _dataset(phantoms)
    feed = build_feed(dataset, SMALL, 4, 0)
    sizes = [4 * 10 * 96 * 96] * len(dataset)
    resident = load_resident(feed._store, sizes, torch.device("cpu"), 2)
    for index, case in enumerate(resident.cases):
        assert case is not None
        for axis in range(3):
            expected = dataset.prepared(index).plane(axis, 4)
            place = torch.from_numpy(place_plane(case, axis, 4))[None]
            found = gather_planes(resident.flat, place, 4, (100, 100))[0]
            assert np.array_equal(found[:, : expected.shape[1], : expected.shape[2]].numpy(), expected)
            inside = found[:, : expected.shape[1], : expected.shape[2]]
            assert found.count_nonzero() == inside.count_nonzero()


def test_cached_planes_are_those_of_the_whole(phantoms: Path, tmp_path: Path) -> None:
    cached, built = CaseCache(tmp_path, SEQUENCES).ensure(discover_cases(phantoms)[0])
    assert built and to_blocks(cached.whole()).shape == cached.blocks.shape
    prepared = _dataset(phantoms).prepare(0)
    assert np.array_equal(cached.whole(), prepared.array)
    for axis in range(3):
        for index in (0, 3, prepared.array.shape[axis + 1] - 1):
            assert np.array_equal(cached.plane(axis, index), prepared.plane(axis, index))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_holds_a_cache(
    number: int, copied: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    root = copied(2)
    command = ["cache", str(root), "--out", str(tmp_path / "cache"), "--workers", "1"]
    assert run(command) == 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")}
    assert len(kept) == 2 and run(command) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_cache_rebuilds_just_what_changed(copied: Callable[[int], Path], tmp_path: Path) -> None:
    root = copied(3)
    cache = CaseCache(tmp_path / "cache", SEQUENCES)
    cases = discover_cases(root)
    assert all(cache.ensure(case)[1] for case in cases)
    assert not any(cache.ensure(case)[1] for case in cases)
    os.utime(cases[0].folder / "ax_adc.nii.gz")  # another time, the same bytes: nothing to build
    source = cases[1].folder / "ax_adc.nii.gz"
    source.write_bytes((cases[2].folder / "ax_adc.nii.gz").read_bytes())
    (cases[2].folder / "roi_Prostate.nii.gz").unlink()
    assert [cache.ensure(case)[1] for case in cases] == [False, True, True]
    assert not cache.ensure(cases[2])[0].has_mask
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "json", "json-key", "json-value"])
def test_damaged_cache_files_are_rebuilt(phantoms: Path, tmp_path: Path, damage: str) -> None:
    cache, case = CaseCache(tmp_path, SEQUENCES), discover_cases(phantoms)[0]
    expected = cache.ensure(case)[0].whole()
    array, meta = next(tmp_path.glob("*.npy")), next(tmp_path.glob("*.json"))
    content = bytearray(array.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0x40
        array.write_bytes(bytes(content))
    elif damage == "cut":
        array.write_bytes(bytes(content[:1000]))
    elif damage == "remove":
        array.unlink()
    elif damage == "json":
        meta.write_text(meta.read_text()[:100])
    elif damage == "json-key":
        meta.write_text(meta.read_text().replace('"key"', '"kez"'))
    else:
        meta.write_text(meta.read_text().replace('"has_mask": true', '"has_mask": false'))
    again, built = CaseCache(tmp_path, SEQUENCES).ensure(case)
    assert built and np.array_equal(again.whole(), expected)


def _fill(cache: Path, root: Path) -> None:
    for case in discover_cases(root):
        CaseCache(cache, SEQUENCES).ensure(case)


@pytest.mark.slow
def test_several_writers_and_kills_leave_a_whole_cache(phantoms: Path, tmp_path: Path) -> None:
    """Writers are killed at random moments; then two write at once; every case is whole at the end."""
    command = [
        sys.executable,
        "-m",
        "prostate_ssl.cli.main",
        "cache",
        str(phantoms),
        "--out",
        str(tmp_path),
        "--workers",
        "1",
    ]
    for seconds in (2.0, 2.6, 3.2, 3.8):
        writer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_fill, args=(tmp_path, phantoms)) for _ in range(2)]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert all(writer.exitcode == 0 for writer in writers)
    for index, case in enumerate(discover_cases(phantoms)):
        cached, built = CaseCache(tmp_path, SEQUENCES).ensure(case)
        assert not built and np.array_equal(cached.whole(), _dataset(phantoms).prepare(index).array)


def test_more_cached_cases_than_a_process_may_open_files(phantoms: Path, tmp_path: Path) -> None:
    """A mapped file holds a descriptor: 60 cases train where a process may have 50."""
    (tmp_path / "data").mkdir()
    for number in range(60):
        source = phantoms / f"phantom_{number % 6 + 1:04d}"
        (tmp_path / "data" / f"case_{number:03d}").symlink_to(source.absolute())
    program = f"""
import resource
from prostate_ssl.data import AugmentationSettings, build_feed, make_dataset, store
assert store.MOST_MAPPED <= 512
store.MOST_MAPPED = 16
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
dataset = make_dataset(dataset_str="ProstateSSL:root={tmp_path / "data"}")
settings = AugmentationSettings(global_crops_size=14, local_crops_size=14, local_crops_number=1)
feed = build_feed(dataset, settings, 10, 0, cache="{tmp_path / "cache"}")
stream = feed.batches()
for _ in range(15):
    next(stream)
print(len(feed.dropped))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0", done.stderr


def test_what_killed_writers_left_is_swept_up(copied: Callable[[int], Path], tmp_path: Path) -> None:
    root, folder = copied(1), tmp_path / "cache"
    (root / "phantom_0001").rename(root / "Fall [1] ä.b")
    case = discover_cases(root)[0]
    cache = CaseCache(folder, SEQUENCES)
    cache.ensure(case)
    array = next(folder.glob("*.npy"))
    (folder / f".{array.name}.4711.tmp").write_bytes(b"half")
    (root / case.case_id / "ax_adc.nii.gz").unlink()
    assert cache.ensure(case)[1]
    assert len(list(folder.glob("*.npy"))) == 1 and not list(folder.glob(".*.tmp"))


def test_cache_verb(
    copied: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied(2)
    command = ["cache", str(root), "--out", str(tmp_path / "cache"), "--workers", "1", "--json"]
    assert run(command) == 0 and json.loads(capsys.readouterr().out)["counts"]["built"] == 2
    (root / "phantom_0001" / "ax_t2wi.nii.gz").write_bytes(b"")
    assert run(command) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"built": 0, "unchanged": 1, "failed": 1}


@pytest.mark.slow
def test_memory_does_not_grow_over_10000_iterations(phantoms: Path) -> None:
    settings = AugmentationSettings(
        global_crops_size=14, local_crops_size=14, local_crops_number=1, intensity_aug="none"
    )
    stream = build_feed(_dataset(phantoms), settings, 2, 0, num_workers=1).batches()
    for _ in range(1000):
        next(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(9000):
        next(stream)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


@pytest.mark.parametrize("name", ["ax_t2wi.nii.gz", "AX_T2WI.NII.GZ", "ax_t2wi.nii.GZ"])
def test_a_compressed_image_bounds_its_shape_in_any_letters(tmp_path: Path, name: str) -> None:
    (tmp_path / "P1").mkdir()
    image = nibabel.Nifti1Image(np.zeros((96, 80, 10), np.int16), np.diag([-1.0, -1.0, 3.0, 1.0]))
    nibabel.save(image, tmp_path / "P1" / name)
    assert (tmp_path / "P1" / name).stat().st_size < image.dataobj.size / 20
    assert _shape_bound(make_dataset(dataset_str=f"ProstateSSL:root={tmp_path}"), 0) == (10, 80, 96)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ImageNet:root=/x", "Unknown dataset"),
        ("ProstateSSL:split=TRAIN", "names no root"),
        ("ProstateSSL:root=/x:random_axis=True", "random_axes"),
        ("ProstateSSL:root=/x:random_axes=maybe", "True or False"),
        ("ProstateSSL:root=/x:percentage_labels=2", "between 0 and 1"),
        ("ProstateSSL:root=/x:split=ALL", "TRAIN"),
    ],
)
def test_bad_dataset_strings_say_what_is_known(text: str, said: str) -> None:
    with pytest.raises(ProstateError, match=said):
        make_dataset(dataset_str=text)


def test_windows_drive_letters_survive() -> None:
    from prostate_ssl.data.dataset_string import parse_dataset_string

    spec = parse_dataset_string(
        r"ProstateSSL:split=VAL:root=C:\data\mri:split_csv=D:/lists/val.csv:mri_sequences=a,b"
    )
    assert str(spec.root) == r"C:\data\mri" and spec.split_csv == "D:/lists/val.csv"
    assert spec.split == "VAL" and spec.mri_sequences == ("a", "b")


def test_contact_sheet_shows_crops_masks_and_the_gland(
    copied: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = copied(2), tmp_path / "new" / "sheet.png"
    command = [
        "crops",
        f"ProstateSSL:root={root}:random_slices=True",
        "--out",
        str(out),
        "--case",
        "phantom_0002",
    ]
    assert run(command) == 0 and "phantom_0002, batch 1, axial slice" in capsys.readouterr().out
    picture = (matplotlib.image.imread(out)[..., :3] * 255).round()
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    assert ((red > 80) & (red > 1.5 * green) & (red > 1.5 * blue)).mean() > 0.02  # masked patches
    assert ((red > 180) & (green > 150) & (blue < 90)).sum() > 500  # the gland's outline
    assert run([*command[:-1], "nobody"]) == 2
