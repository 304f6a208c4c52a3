"""Section 1's list of bad input: each has a defined outcome, in `check` and in the feed."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest

from prostate_ssl.cli.main import run
from prostate_ssl.data import AugmentationSettings, build_feed, make_dataset
from prostate_ssl.data.checking import check_folder
from prostate_ssl.data.layout import Case, choose_sequence, discover_cases
from prostate_ssl.data.preparing import prepare_case
from prostate_ssl.data.reading import read_case
from prostate_ssl.data.store import CaseStore
from prostate_ssl.data.volumes import read_volume, write_volume
from prostate_ssl.errors import ProstateError, UnreadableVolumeError

sys.path.insert(0, str(Path(__file__).parent))
from dicom_writer import study, write_series

SEQUENCES = ("ax_t2wi", "ax_adc", "ax_dwi")
SMALL = AugmentationSettings(global_crops_size=56, local_crops_size=28, local_crops_number=2)
Damage = Callable[[Path], None]


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.load(path)
    return np.asarray(image.dataobj, dtype=np.float32), image.affine


def _save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


def _remove(name: str) -> Damage:
    def damage(folder: Path) -> None:
        for path in folder.glob(name):
            path.unlink()

    return damage


def _empty(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(b"") and None


def _cut(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def _cut_uncompressed(folder: Path) -> None:
    content = gzip.decompress((folder / "ax_adc.nii.gz").read_bytes())
    (folder / "ax_adc.nii").write_bytes(content[: len(content) // 2])


def _change(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(folder: Path) -> None:
        data, affine = _load(folder / name)
        _save(folder / name, change(data), affine)

    return damage


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[3:6, 3:6] = value
        return data

    return change


def _elsewhere(folder: Path) -> None:
    data, affine = _load(folder / "ax_adc.nii.gz")
    affine = affine.copy()
    affine[:3, 3] += 500
    _save(folder / "ax_adc.nii.gz", data, affine)


def _header(change: Callable[[nibabel.Nifti1Header], None], name: str = "ax_adc.nii.gz") -> Damage:
    """Change the 348 bytes at the front and nothing else."""

    def damage(folder: Path) -> None:
        content = gzip.decompress((folder / name).read_bytes())
        header = nibabel.Nifti1Header(content[:348], check=False)
        change(header)
        (folder / name).write_bytes(gzip.compress(header.binaryblock + content[348:]))

    return damage


def _set(field: str, value: object, at: int | None = None) -> Damage:
    def change(header: nibabel.Nifti1Header) -> None:
        if at is None:
            header.structarr[field] = value
        else:
            header.structarr[field][at] = value

    return _header(change)


def _orientation(row: list[float]) -> Damage:
    def change(header: nibabel.Nifti1Header) -> None:
        header.structarr["srow_x"] = row

    return _header(change)


def _as(dtype: object) -> Damage:
    def damage(folder: Path) -> None:
        data, affine = _load(folder / "ax_adc.nii.gz")
        nibabel.save(nibabel.Nifti1Image(data.astype(dtype), affine, dtype=dtype), folder / "ax_adc.nii.gz")

    return damage


def _rgb(folder: Path) -> None:
    data, affine = _load(folder / "ax_adc.nii.gz")
    colours = np.zeros(data.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, affine), folder / "ax_adc.nii.gz")


def _capitals(folder: Path) -> None:
    """As Windows and some scanners export."""
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(path.name.upper()))


def _twice_in_capitals(name: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / f"{name}.nii.gz"
        shutil.copy(path, path.with_name(path.name.title().replace(".Nii.Gz", ".nii.gz")))
        path.rename(path.with_name(path.name.upper()))

    return damage


def _plain_named_gz(folder: Path) -> None:
    path = folder / "ax_adc.nii.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))


def _gz_named_plain(folder: Path) -> None:
    (folder / "ax_adc.nii.gz").rename(folder / "ax_adc.nii")


# name → damage, expected severity of the remark, its kind, present modalities (None: the case is refused)
OUTCOMES: dict[str, tuple[Damage, str, str, list[bool] | None]] = {
    "no-t2": (_remove("ax_t2wi*"), "error", "missing-sequence", None),
    "no-adc": (_remove("ax_adc*"), "warning", "missing-sequence", [True, False, True]),
    "no-dwi": (_remove("*dwi*"), "warning", "missing-sequence", [True, True, False]),
    "no-mask": (_remove("roi*"), "info", "mask", [True, True, True]),
    "empty-t2": (_empty("ax_t2wi.nii.gz"), "error", "unreadable", None),
    "empty-adc": (_empty("ax_adc.nii.gz"), "error", "unreadable", [True, False, True]),
    "cut-t2": (_cut("ax_t2wi.nii.gz"), "error", "unreadable", None),
    "cut-adc": (_cut("ax_adc.nii.gz"), "error", "unreadable", [True, False, True]),
    "cut-uncompressed": (_cut_uncompressed, "error", "unreadable", [True, False, True]),
    "no-nifti": (lambda f: (f / "ax_adc.nii.gz").write_bytes(b"hello") and None, "error", "unreadable", [True, False, True]),
    "nan": (_change("ax_adc.nii.gz", _with(np.nan)), "warning", "intensities", [True, True, True]),
    "inf": (_change("ax_t2wi.nii.gz", _with(np.inf)), "warning", "intensities", [True, True, True]),
    "all-nan": (_change("ax_adc.nii.gz", lambda d: d * np.nan), "error", "unreadable", [True, False, True]),
    "constant": (_change("ax_adc.nii.gz", lambda d: d * 0 + 5), "warning", "intensities", [True, False, True]),
    "outlier": (_change("ax_t2wi.nii.gz", _with(1e9)), "info", "intensities", [True, True, True]),
    "4-d": (_change("ax_adc.nii.gz", lambda d: np.stack([d * 0, d], axis=-1)), "warning", "intensities", [True, True, True]),
    "4-d-of-one": (_change("ax_adc.nii.gz", lambda d: d[..., None]), "info", "geometry", [True, True, True]),
    "2-d": (_change("ax_adc.nii.gz", lambda d: d[:, :, 0]), "error", "unreadable", [True, False, True]),
    "5-d": (_change("ax_adc.nii.gz", lambda d: np.stack([d] * 3, axis=-1)[..., None, :]), "error", "unreadable", [True, False, True]),
    "int64": (_as(np.int64), "info", "geometry", [True, True, True]),
    "float64": (_as(np.float64), "info", "geometry", [True, True, True]),
    "complex": (_as(np.complex64), "error", "unreadable", [True, False, True]),
    "rgb": (_rgb, "error", "unreadable", [True, False, True]),
    "slope-0": (_set("scl_slope", 0), "info", "geometry", [True, True, True]),
    "slope-nan": (_set("scl_slope", np.nan), "info", "geometry", [True, True, True]),
    "slope-1e30": (_set("scl_slope", 1e30), "warning", "intensities", [True, False, True]),
    "intercept-inf": (_set("scl_inter", np.inf), "error", "unreadable", [True, False, True]),
    "huge-sides": (_set("dim", 32000, slice(1, 4)), "error", "unreadable", [True, False, True]),
    "side-too-long": (_set("dim", 4000, 3), "error", "unreadable", [True, False, True]),
    "negative-side": (_set("dim", -5, 2), "error", "unreadable", [True, False, True]),
    "unknown-type": (_set("datatype", 6), "error", "unreadable", [True, False, True]),
    "nan-orientation": (_orientation([np.nan, 0, 0, 0]), "error", "unreadable", [True, False, True]),
    "zero-spacing": (_orientation([0, 0, 0, 0]), "error", "unreadable", [True, False, True]),
    "spacing-1e33": (_orientation([1e33, 0, 0, 0]), "error", "unreadable", [True, False, True]),
    "plain-named-gz": (_plain_named_gz, "error", "unreadable", [True, False, True]),
    "gz-named-plain": (_gz_named_plain, "error", "unreadable", [True, False, True]),
    "fewer-slices": (_change("ax_adc.nii.gz", lambda d: d[:, :, :5]), "warning", "geometry", [True, True, True]),
    "elsewhere": (_elsewhere, "error", "geometry", [True, False, True]),
    "empty-mask": (_change("roi_Prostate.nii.gz", lambda d: d * 0), "warning", "mask", [True, True, True]),
    "tiny-mask": (_change("roi_Prostate.nii.gz", lambda d: d * (np.cumsum(d).reshape(d.shape) <= 3)), "warning", "mask", [True, True, True]),
    "capitals": (_capitals, "info", "files", [True, True, True]),
    "t2-in-two-spellings": (_twice_in_capitals("ax_t2wi"), "error", "missing-sequence", None),
    "adc-in-two-spellings": (
        _twice_in_capitals("ax_adc"), "warning", "missing-sequence", [True, False, True]
    ),
    "nan-mask": (
        _change("roi_Prostate.nii.gz", lambda d: np.where(d > 0, d, np.nan)), "warning", "mask", [True, True, True]
    ),
    "cut-mask": (_cut("roi_Prostate.nii.gz"), "error", "unreadable", [True, True, True]),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome_in_check_and_reading(copied: Callable[[int], Path], name: str) -> None:
    damage, severity, kind, present = OUTCOMES[name]
    root = copied(1)
    damage(root / "phantom_0001")
    report = check_folder(root)
    assert any((remark.severity, remark.kind) == (severity, kind) for remark in report.remarks), (
        report.remarks
    )
    case = discover_cases(root)[0]
    if present is None:
        with pytest.raises(UnreadableVolumeError, match="ax_t2wi"):
            prepare_case(read_case(case, SEQUENCES))
        return
    prepared = prepare_case(read_case(case, SEQUENCES))
    assert prepared.present.tolist() == present
    assert np.isfinite(prepared.array).all() and prepared.array.min() >= 0 and prepared.array.max() <= 1
    assert (prepared.array[:-1][~prepared.present] == 0).all()
    if severity != "info":
        assert prepared.notes


def test_a_case_without_its_t2_is_not_said_to_be_used(copied: Callable[[int], Path]) -> None:
    root = copied(2)
    for name in ("ax_adc.nii.gz", "ax_t2wi.nii.gz"):
        (root / "phantom_0001" / name).unlink()
    (root / "phantom_0002" / "ax_adc.nii.gz").unlink()
    texts = {remark.subject: remark.text for remark in check_folder(root).remarks if "ax_adc" in remark.text}
    assert texts == {
        "phantom_0001": "no ax_adc",
        "phantom_0002": "no ax_adc: the case is used, that modality is masked out",
    }


def test_constant_images_of_two_patients_are_no_duplicates(copied: Callable[[int], Path]) -> None:
    root = copied(2)
    data, affine = _load(root / "phantom_0001" / "ax_adc.nii.gz")
    for folder in ("phantom_0001", "phantom_0002"):
        _save(root / folder / "ax_adc.nii.gz", data * 0 + 5, affine)
    assert not [remark for remark in check_folder(root).remarks if remark.kind == "duplicate"]


@pytest.mark.parametrize("name", OUTCOMES)
def test_training_goes_on_with_every_kind_of_bad_case(copied: Callable[[int], Path], name: str) -> None:
    root = copied(4)
    OUTCOMES[name][0](root / "phantom_0002")
    dataset = make_dataset(
        dataset_str=f"ProstateSSL:split=TRAIN:root={root}:random_axes=True:random_slices=True"
    )
    feed = build_feed(dataset, SMALL, 4, 0, max_bad_share=0.5)
    stream = feed.batches()
    batches = [next(stream) for _ in range(3)]
    assert all(
        batch.global_crops.isfinite().all() and batch.local_crops.isfinite().all() for batch in batches
    )
    refused = OUTCOMES[name][3] is None
    assert [bad.case_id for bad in feed.dropped] == (["phantom_0002"] if refused else [])
    assert all((batch.case_index != 1).all() for batch in batches) == refused


def test_orientation_of_files_does_not_matter(copied: Callable[[int], Path]) -> None:
    """The same image stored in another order of axes gives the same case."""
    root = copied(1)
    case = discover_cases(root)[0]
    expected = read_case(case, SEQUENCES)
    for name, codes in (("ax_t2wi.nii.gz", "RAS"), ("ax_adc.nii.gz", "SAR"), ("roi_Prostate.nii.gz", "PIL")):
        image = nibabel.load(case.folder / name)
        start = nibabel.orientations.io_orientation(image.affine)
        turn = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(codes))
        turned = image.as_reoriented(turn)
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine), case.folder / name)
    found = read_case(case, SEQUENCES)
    assert np.allclose(found.modalities, expected.modalities, atol=1e-3)
    assert np.array_equal(found.mask, expected.mask) and found.spacing == pytest.approx(expected.spacing)


def test_resampling_follows_position_in_space(tmp_path: Path) -> None:
    """A ramp in millimetres, sampled on a coarse shifted grid, is the same ramp on the T2 grid."""
    folder = tmp_path / "P"
    folder.mkdir()
    fine, coarse = np.diag([-1.0, -1.0, 3.0, 1.0]), np.diag([-2.0, -2.0, 3.0, 1.0])
    fine[:3, 3], coarse[:3, 3] = [32, 32, 0], [35, 34, 0]
    _save(folder / "ax_t2wi.nii", np.random.default_rng(0).random((64, 64, 6)).astype(np.float32), fine)
    i, j, k = np.meshgrid(np.arange(36), np.arange(36), np.arange(6), indexing="ij")
    x, y, z = (coarse @ np.stack([i, j, k, np.ones_like(i)]).reshape(4, -1))[:3].reshape(3, 36, 36, 6)
    _save(folder / "ax_adc.nii", (500 + 2 * x + 3 * y + z).astype(np.float32), coarse)
    volumes = read_case(Case("P", folder), ("ax_t2wi", "ax_adc"))
    d, h, w = np.meshgrid(np.arange(6), np.arange(64), np.arange(64), indexing="ij")
    X, Y, Z = (volumes.affine @ np.stack([w, h, d, np.ones_like(d)]).reshape(4, -1))[:3].reshape(3, 6, 64, 64)
    assert np.allclose(volumes.modalities[1], 500 + 2 * X + 3 * Y + Z, atol=1e-2)


@pytest.mark.parametrize(("bad", "share"), [((1, 3), 0.3), ((1, 2, 3, 4), 1.0)])
def test_too_many_bad_cases_stop_the_run_with_their_names(
    copied: Callable[[int], Path], bad: tuple[int, ...], share: float
) -> None:
    root = copied(4)
    for number in bad:
        (root / f"phantom_{number:04d}" / "ax_t2wi.nii.gz").write_bytes(b"")
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={root}")
    with pytest.raises(ProstateError, match=r"phantom_000[1-4].*phantom_000[1-4]"):
        next(build_feed(dataset, SMALL, 4, 0, max_bad_share=share).batches())


def test_a_thread_that_finds_every_case_bad_also_finds_why() -> None:
    def load(index: int) -> None:
        raise UnreadableVolumeError(f"case {index} is damaged")

    store = CaseStore(("a", "b"), load, np.ones(2, dtype=bool), budget=1, max_bad_share=1.0)
    seen: list[object] = []

    class Meanwhile(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(store.bad) == 2:
                with ThreadPoolExecutor(1) as other:
                    seen.append(other.submit(store.get, 0).exception())

    handler = Meanwhile()
    logging.getLogger("prostate_ssl").addHandler(handler)
    try:
        assert store.get(0) is None
        with pytest.raises(ProstateError, match="2 of 2 cases"):
            store.get(1)
    finally:
        logging.getLogger("prostate_ssl").removeHandler(handler)
    assert isinstance(seen[0], ProstateError) and "case 1 is damaged" in seen[0].message


@pytest.mark.parametrize("damage", ["cut", "gone", "no-folder", "other-shape"])
def test_a_case_that_turns_bad_in_the_middle_is_dropped(
    copied: Callable[[int], Path], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was read before, was let go for want of memory, and is bad when it is read again."""
    root = copied(4)
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={root}")
    feed = build_feed(dataset, SMALL, 1, 0, num_workers=1, max_bad_share=0.5)
    feed._store._budget = 1  # of decoded cases one is kept
    stream = feed.batches()
    assert {int(next(stream).case_index) for _ in range(8)} == {0, 1, 2, 3}
    victim = root / "phantom_0003"
    if damage == "cut":
        _cut("ax_t2wi.nii.gz")(victim)
    elif damage == "gone":
        (victim / "ax_t2wi.nii.gz").unlink()
    elif damage == "no-folder":
        shutil.rmtree(victim)
    else:
        _change("ax_t2wi.nii.gz", lambda d: d[:, :, 0])(victim)
    [next(stream) for _ in range(8)]  # what was made ahead, and the drop
    assert all(int(next(stream).case_index) != 2 for _ in range(12))
    assert [bad.case_id for bad in feed.dropped] == ["phantom_0003"]
    assert "case phantom_0003 dropped, 1 of 4 so far" in caplog.text and "ax_t2wi" in caplog.text


def test_cases_with_remarks_are_counted_after_the_first_epoch(
    copied: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = copied(4)
    _remove("ax_adc*")(root / "phantom_0002")
    _change("ax_t2wi.nii.gz", _with(np.nan))(root / "phantom_0004")
    stream = build_feed(make_dataset(dataset_str=f"ProstateSSL:root={root}"), SMALL, 2, 0).batches()
    with caplog.at_level("INFO", "prostate_ssl"):
        [next(stream) for _ in range(4)]
    lines = [record.getMessage() for record in caplog.records if "with remarks" in record.getMessage()]
    assert len(lines) == 1 and "2 of 4 cases" in lines[0] and "ax_adc is missing" in lines[0]


def test_check_reports_lists_duplicates_and_strictness(
    copied: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied(2)
    assert run(["check", str(root)]) == 0
    (root / "split").mkdir()
    (root / "split" / "train.csv").write_text("patient_id\nphantom_0001\nnobody\n")
    (root / "LISTS").mkdir()
    (root / "LISTS" / "TRAIN.CSV").write_text("patient_id\nphantom_0001\n")
    assert [case.case_id for case in discover_cases(root)] == ["phantom_0001", "phantom_0002"]
    assert run(["check", str(root), "--split", "split/train.csv"]) == 1
    assert "nobody" in capsys.readouterr().out
    (root / "phantom_0001" / "ax_adc.nii.gz").unlink()
    assert run(["check", str(root)]) == 0 and run(["check", str(root), "--strict"]) == 1
    shutil.copy(root / "phantom_0001" / "ax_t2wi.nii.gz", root / "phantom_0002" / "ax_t2wi.nii.gz")
    assert any(
        remark.kind == "duplicate" and remark.severity == "error" for remark in check_folder(root).remarks
    )


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["ax_dwi_b50", "ax_dwi_b1000"], "ax_dwi_b1000"),
        (["ax_dwi_1000", "dwi_b2000"], "dwi_b2000"),
        (["dwi_2000", "dwi_50"], "dwi_2000"),
        (["ax_dwi"], "ax_dwi"),
        (["ax_dwi", "ax_dwi_b50"], "ax_dwi_b50"),
        (["ax_dwi_b800", "ax_dwi_b1400_calc"], "ax_dwi_b800"),
        (["ax_dwi_b400", "ax_dwi_b1400_calc"], "ax_dwi_b1400_calc"),
        (["ax_dwi_b1400_calc"], "ax_dwi_b1400_calc"),
    ],
)
def test_which_diffusion_image_is_taken(tmp_path: Path, names: list[str], chosen: str) -> None:
    for name in names:
        (tmp_path / f"{name}.nii.gz").write_bytes(b"x")
    assert choose_sequence(tmp_path, "ax_dwi").path == tmp_path / f"{chosen}.nii.gz"


@pytest.mark.parametrize(
    ("names", "wanted", "chosen", "note"),
    [
        (["AX_T2WI.NII.GZ"], "ax_t2wi", "AX_T2WI.NII.GZ", "AX_T2WI.NII.GZ is read as ax_t2wi"),
        (["Ax_Adc.nii"], "ax_adc", "Ax_Adc.nii", "Ax_Adc.nii is read as ax_adc"),
        (["roi_prostate.nii.gz"], "roi_Prostate", "roi_prostate.nii.gz", "is read as roi_Prostate"),
        (["AX_DWI_B1000.NII.GZ", "ax_dwi_b50.nii"], "ax_dwi", "AX_DWI_B1000.NII.GZ", "as ax_dwi_b1000"),
        (["ax_dwi_b1000.NII.GZ", "AX_DWI_B50.NII.GZ"], "ax_dwi", "ax_dwi_b1000.NII.GZ", None),
        (["ax_t2wi.NII.GZ"], "ax_t2wi", "ax_t2wi.NII.GZ", None),
        (["AX_T2WI.nii.gz", "ax_t2wi.nii.gz"], "ax_t2wi", "ax_t2wi.nii.gz", None),
        (["AX_T2WI.NII", "AX_T2WI.NII.GZ"], "ax_t2wi", "AX_T2WI.NII", "is read as ax_t2wi"),
        (["ax_t2wi.NII.GZ", "ax_t2wi.nii.gz"], "ax_t2wi", "ax_t2wi.nii.gz", None),
        (["ax_t2wi.NII", "ax_t2wi.nii.GZ"], "ax_t2wi", "ax_t2wi.NII", "the uncompressed one"),
        (["AX_ADC.nii.gz", "Ax_Adc.nii.gz"], "ax_adc", None, "AX_ADC.nii.gz and Ax_Adc.nii.gz may each be"),
        (["xax_t2wi.nii.gz"], "ax_t2wi", None, None),
    ],
)
def test_a_name_in_other_letters_is_read_where_just_one_file_has_it(
    tmp_path: Path, names: list[str], wanted: str, chosen: str | None, note: str | None
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    choice = choose_sequence(tmp_path, wanted)
    assert choice.path == (tmp_path / chosen if chosen else None)
    assert note in choice.notes[0] if note else not choice.notes


def test_check_says_which_file_was_read_and_between_which_none_was_chosen(
    copied: Callable[[int], Path],
) -> None:
    root = copied(2)
    _capitals(root / "phantom_0001")
    _twice_in_capitals("ax_t2wi")(root / "phantom_0002")
    said = {(remark.subject, remark.text) for remark in check_folder(root).remarks}
    assert ("phantom_0001", "AX_T2WI.NII.GZ is read as ax_t2wi") in said
    assert ("phantom_0001", "ROI_PROSTATE.NII.GZ is read as roi_Prostate") in said
    between = "AX_T2WI.NII.GZ and Ax_T2Wi.nii.gz may each be ax_t2wi: rename the right one to ax_t2wi"
    assert any(text.startswith("no ax_t2wi") and text.endswith(between) for _, text in said), said
    with pytest.raises(UnreadableVolumeError, match=between):
        read_case(discover_cases(root)[1], SEQUENCES)


def test_the_uncompressed_twin_is_taken_and_said(tmp_path: Path) -> None:
    for name in ("ax_t2wi.nii", "ax_t2wi.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    choice = choose_sequence(tmp_path, "ax_t2wi")
    assert choice.path == tmp_path / "ax_t2wi.nii" and "uncompressed" in choice.notes[0]


@pytest.mark.parametrize(("written", "named"), [("v.nii.gz", "v.nii"), ("v.nii", "v.nii.gz")])
def test_a_name_that_is_wrong_about_compression_is_told(written: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_volume(tmp_path / "a" / written, np.ones((2, 3, 4)), np.eye(4))
    (tmp_path / "a" / written).rename(tmp_path / named)
    with pytest.raises(UnreadableVolumeError, match=f"rename it to {written}\\.$"):
        read_volume(tmp_path / named)


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_no_data_is_one_paragraph(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    root.write_text("x") if kind == "file" else root.mkdir() if kind == "empty" else None
    for command in (
        ["check", str(root)],
        ["split", str(root), "--out", str(tmp_path / "s")],
        ["cache", str(root), "--out", str(tmp_path / "c")],
    ):
        assert run(command) == 1
        assert str(root) in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_what_may_not_be_read_or_written_is_named(copied: Callable[[int], Path], tmp_path: Path) -> None:
    """As a user who may not read one folder and one file, nor write here (root may do all: it steps down)."""
    shared = Path(tempfile.mkdtemp())  # (pytest's folders are closed to other users)
    root, dicom = shared / "data", shared / "dicom"
    copied_once = copied(3)
    (copied_once / "phantom_0003").rename(copied_once / "Fall ä 3")
    shutil.copytree(copied_once, root)
    shared.chmod(0o755)
    write_series(dicom, study(), 4, "t2_tse_tra")
    (root / "loop").symlink_to("loop")
    victims = [root / "phantom_0001", root / "Fall ä 3" / "ax_adc.nii.gz"]
    places = [root / "cache", root / "split" / "train.csv", root / "imported"]
    program = f"""
import os
from rich.cells import cell_len
from prostate_ssl.cli.main import run
from prostate_ssl.data import AugmentationSettings, build_feed, make_dataset
def everything(root, out):
    runs = [run(["check", root]), run(["cache", root, "--out", out + "/cache", "--workers", "1"])]
    runs += [run(["split", root, "--out", out + "/split"])]
    return runs + [run(["import", "dicom", {str(dicom)!r}, "--out", out + "/imported", "--workers", "1"])]
def batches(root):
    settings = AugmentationSettings(global_crops_size=14, local_crops_size=14, local_crops_number=1)
    feed = build_feed(make_dataset(dataset_str="ProstateSSL:root=" + root), settings, 2, 0, max_bad_share=0.5)
    stream = feed.batches()
    return len([next(stream) for _ in range(4)]), [bad.case_id for bad in feed.dropped], list(feed.fallbacks)
everything({str(copied_once)!r}, {str(tmp_path / "before")!r})  # imports whatever is imported late, which the
batches({str(copied_once)!r})                                   # other user may not be allowed to read,
cell_len("\u4e2d")                                             # rich's tables of wide characters among it
print("=" * 9, flush=True)
for path in {[str(path) for path in victims]}:
    os.chmod(path, 0)
if os.geteuid() == 0:
    os.setegid(65534), os.seteuid(65534)
print(everything({str(root)!r}, {str(root)!r}))
print(*batches({str(root)!r}))
"""
    root.chmod(0o555)
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    finally:
        root.chmod(0o755)
        [path.chmod(0o755) for path in victims]
        shutil.rmtree(shared)
    said = done.stdout.split("=" * 9)[1] + done.stderr
    assert "[1, 1, 1, 1]" in said and "4 ['phantom_0001'] ['Fall ä 3']" in said, said
    assert "fault of prostate-ssl" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    for path in (*victims, *places):
        assert path.name in said, path


def test_a_small_contrast_on_a_large_offset_is_cached_and_an_odd_case_is_named(
    copied: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = copied(2)
    path = root / "phantom_0001" / "ax_t2wi.nii.gz"
    data, affine = _load(path)
    _save(path, (1000 + 1e-4 * data / data.max()).astype(np.float32), affine)
    arguments = ["cache", str(root), "--workers", "1", "--out"]
    assert run([*arguments, str(tmp_path / "a")]) == 0 and "2 built" in capsys.readouterr().out

    def fault(volumes: object, settings: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("prostate_ssl.data.preparing.prepare_case", fault)
    assert run([*arguments, str(tmp_path / "b")]) == 1
    assert "phantom_0001: cannot be prepared (ValueError: odd)" in capsys.readouterr().out
    with pytest.raises(UnreadableVolumeError, match="phantom_0001: cannot be prepared"):
        make_dataset(dataset_str=f"ProstateSSL:root={root}").prepare(0)


@pytest.mark.parametrize(
    ("sform", "qform", "said"),
    [
        (0, 0, "no orientation in its header"),
        (1, 1, "lie 7 mm apart: the sform is used"),
        (1, 0, None),
        (0, 1, None),
    ],
)
def test_an_orientation_that_is_missing_or_given_twice_is_said(
    copied: Callable[[int], Path], sform: int, qform: int, said: str | None
) -> None:
    root = copied(1)
    path = root / "phantom_0001" / "ax_adc.nii.gz"
    data, affine = _load(path)
    moved = affine.copy()
    moved[0, 3] += 7
    image = nibabel.Nifti1Image(data, affine)
    image.set_sform(affine, code=sform)
    image.set_qform(moved if sform else affine, code=qform)
    nibabel.save(image, path)
    told = [r.text for r in check_folder(root).remarks if r.kind == "geometry" and r.severity == "warning"]
    noted = read_case(discover_cases(root)[0], SEQUENCES).notes
    if said is None:
        assert not told and not noted
    else:
        assert any(said in text for text in told) and any(said in text for text in (*noted, *told))


def test_little_cover_of_the_t2_grid_is_a_warning(copied: Callable[[int], Path]) -> None:
    root = copied(1)
    path = root / "phantom_0001" / "ax_adc.nii.gz"
    data, affine = _load(path)
    _save(path, data[: data.shape[0] // 2], affine)
    told = [r for r in check_folder(root).remarks if "of the T2 grid: resampled" in r.text]
    assert [r.severity for r in told] == ["warning"]
    assert any(
        "of the T2 grid, zero beyond" in n for n in read_case(discover_cases(root)[0], SEQUENCES).notes
    )


def test_our_own_folders_below_the_root_are_no_patients(copied: Callable[[int], Path]) -> None:
    root = copied(2)
    assert run(["cache", str(root), "--out", str(root / "cache")]) == 0
    for name in ("run", "phantom_0009"):
        (root / name).mkdir()
    (root / "run" / "config.yaml").write_text("a: 1\n")
    (root / "phantom_0001" / "config.yaml").write_text("a: 1\n")
    names = [case.case_id for case in discover_cases(root)]
    assert names == ["phantom_0001", "phantom_0002", "phantom_0009"]
