"""Phantoms and splits."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prostate_ssl.cli.main import run
from prostate_ssl.data import make_dataset
from prostate_ssl.data.listed import with_guesses
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.data.splitting import list_sizes, split_patients
from prostate_ssl.data.tables import read_patient_table
from prostate_ssl.errors import ProstateError

SMALL = PhantomSettings(size=64, slices=8)


def test_phantoms_are_the_same_bytes_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "a", 2, SMALL)
    write_phantoms(tmp_path / "b", 3, SMALL, workers=2)
    for path in (tmp_path / "a").rglob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.nii.gz")}
    assert write_phantoms(tmp_path / "a", 3, SMALL) == ["phantom_0003"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(list(csv.DictReader((tmp_path / "a" / "labels.csv").open()))) == 3
    with pytest.raises(ProstateError, match="other settings"):
        write_phantoms(tmp_path / "a", 2, PhantomSettings(size=64, slices=9))


def rewrite_settings(root: Path, **changed: object) -> None:
    """Put settings into the phantom.json of the first case, as another release would have; None takes away."""
    path = root / "phantom_0001" / "phantom.json"
    found = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


@pytest.mark.parametrize(
    "named",
    [{"gland_spread": None}, {"label_kind": "multifocal", "scanner_spread": 1.0}],
    ids=["before-a-setting", "retired-settings"],
)
def test_a_folder_of_another_release_with_the_same_phantoms_goes_on(
    tmp_path: Path, named: dict[str, object]
) -> None:
    write_phantoms(tmp_path, 1, SMALL)
    rewrite_settings(tmp_path, **named)
    assert write_phantoms(tmp_path, 2, SMALL) == ["phantom_0002"]


@pytest.mark.parametrize(
    "named",
    [{"label_kind": "agreement"}, {"scanner_spread": 0.0}, {"gland_spread": 0.1}, {"unheard_of": 1}],
)
def test_a_folder_of_another_release_with_other_phantoms_is_refused(
    tmp_path: Path, named: dict[str, object]
) -> None:
    write_phantoms(tmp_path, 1, SMALL)
    rewrite_settings(tmp_path, **{"label_kind": "multifocal", "scanner_spread": 1.0} | named)
    with pytest.raises(ProstateError, match="other settings"):
        write_phantoms(tmp_path, 2, SMALL)


def test_a_setting_that_no_phantom_has_is_refused() -> None:
    with pytest.raises(ProstateError, match="phantom"):
        PhantomSettings(gland_spread=0.4)


def local_contrast(plane: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """How a plane stands out from its surroundings, whatever the coil's gain: (H, W) log ratio; σ in pixels."""
    log = np.log(plane + 0.02)
    return np.asarray(ndimage.gaussian_filter(log, fine) - ndimage.gaussian_filter(log, coarse))


def test_lesions_are_dark_on_adc_and_bright_at_high_b(phantoms: Path) -> None:
    """In the gland ADC and high-b signal go against each other, as they do in patients."""
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={phantoms}")
    for index in range(len(dataset)):
        case = dataset.prepared(index)
        at = dataset.evaluation_slice(index)
        gland = case.array[3, at] > 0.5
        adc, dwi = (local_contrast(case.array[row, at].astype(float), 0, 6)[gland] for row in (1, 2))
        assert np.corrcoef(adc, dwi)[0, 1] < -0.3


@pytest.mark.slow
def test_grey_values_alone_tell_less_than_what_stands_out(tmp_path: Path) -> None:
    """A probe on histograms stays below an AUC of 0.75; the area that is brighter than around it tells all."""
    write_phantoms(tmp_path, 64, PhantomSettings(size=96, slices=10))
    dataset = make_dataset(dataset_str=f"ProstateSupervised:root={tmp_path}")
    samples = [dataset.sample(index, size=112) for index in range(len(dataset))]
    images = [sample.image.numpy() for sample in samples]
    histograms = [
        np.concatenate([np.histogram(c, bins=16, range=(-2, 2.5))[0] / c.size for c in image])
        for image in images
    ]
    standing_out = [
        [
            (local_contrast(image[2] * 0.22 + 0.45, 2, 10)[sample.mask.numpy()] > 0.1 * k).mean()
            for k in (1, 2)
        ]
        for image, sample in zip(images, samples, strict=True)
    ]

    def auc(rows: list) -> float:  # type: ignore[type-arg]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
        scores = cross_val_predict(model, np.array(rows), dataset.labels, cv=8, method="predict_proba")[:, 1]
        return float(roc_auc_score(dataset.labels, scores))

    assert auc(histograms) < 0.75 and auc(standing_out) > 0.9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 5))
def test_every_patient_is_in_one_list(count: int, seed: int) -> None:
    names = [f"P{k}" for k in range(count)]
    split = split_patients(names, [str(k % 3) for k in range(count)], seed)
    assert sorted((*split.train, *split.val, *split.test)) == sorted(names)
    assert (len(split.train), len(split.val), len(split.test)) == list_sizes(count)


def test_sizes_are_70_15_15() -> None:
    assert list_sizes(400) == (280, 60, 60) and list_sizes(20) == (14, 3, 3)
    assert list_sizes(3) == (1, 1, 1) and list_sizes(1) == (1, 0, 0)


def test_lists_are_stratified_and_do_not_depend_on_the_order() -> None:
    names = [f"P{k:03d}" for k in range(200)]
    labels = ["1" if k < 50 else "0" for k in range(200)]
    split = split_patients(names, labels, 3)
    share = dict(zip(names, labels, strict=True))
    for part, ones in ((split.train, 35), (split.val, 7.5), (split.test, 7.5)):
        assert abs(Counter(share[name] for name in part)["1"] - ones) <= 1
    again = split_patients(names[::-1], labels[::-1], 3)
    assert set(again.train) == set(split.train) and set(again.val) == set(split.val)
    assert set(split_patients(names, labels, 4).train) != set(split.train)


def test_split_verb(phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["split", str(phantoms), "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"train": 4, "val": 1, "test": 1}
    table = read_patient_table(tmp_path / "train.csv")
    assert table.labels is not None and sorted(table.labels) == ["0", "0", "1", "1"]
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={phantoms}:split_csv={tmp_path / 'train.csv'}")
    assert dataset.case_ids == list(table.ids)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["phantom_0001,0", "phantom_0002,1", "phantom_0001,1"], "phantom_0001 is listed twice with labels"),
        (["phantom_0001,0", "phantom_0002,1", "phantom_003,1"], "phantom_003 (is it phantom_0003?)"),
        (
            ["phantom_0001,yes", "phantom_0002,1"],
            "1 of 2 labels, such as 'yes' of phantom_0001, are no class numbers",
        ),
        (["phantom_0001,", "phantom_0002,"], "no patient has a label, so the lists are not stratified"),
    ],
)
def test_split_says_what_is_odd_about_its_labels(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[str], said: str
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["patient_id,label", *rows]))
    assert run(["split", str(phantoms), "--out", str(tmp_path), "--labels", str(path), "--json"]) == 0
    told = capsys.readouterr()
    assert said in told.err
    assert json.loads(told.out)["stratified"] == ("not stratified" not in said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient_id,label\na,0\nb,1\n", "None of the 2 patients"),
        ("phantom_0001,0\nphantom_0002,1\n", "no header"),
        ("patient_id,Grade\nphantom_0001,0\n", "no column 'label' (it has: patient_id, Grade)"),
    ],
)
def test_split_refuses_labels_that_belong_to_nobody(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    assert run(["split", str(phantoms), "--out", str(tmp_path / "out"), "--labels", str(path)]) != 0
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_class_is_one_stratum_however_it_is_spelled(phantoms: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    names = [f"phantom_{number:04d}" for number in range(1, 7)]
    dealt = []
    for spellings in (["0", "1"] * 3, ["0", "1", "0.0", "01", "0,00", "1,0"]):
        lines = (f'{name},"{label}"\n' for name, label in zip(names, spellings, strict=True))
        path.write_text("patient_id,label\n" + "".join(lines))
        assert run(["split", str(phantoms), "--out", str(tmp_path), "--labels", str(path)]) == 0
        dealt.append(
            [read_patient_table(tmp_path / f"{which}.csv").ids for which in ("train", "val", "test")]
        )
    assert dealt[0] == dealt[1]


def test_a_folder_in_place_of_a_list_is_said(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["split", str(phantoms), "--out", str(tmp_path / "out"), "--labels", str(tmp_path)]) == 1
    assert f"{tmp_path} is a folder, not a file" in capsys.readouterr().err
    with pytest.raises(ProstateError, match=r"not found \(looked at: .* \(a folder\)"):
        make_dataset(dataset_str=f"ProstateSSL:root={phantoms}:split_csv={tmp_path}")


def test_many_rows_that_are_passed_over_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("patient_id\n" + "P1\n" * 10_000)
    table = read_patient_table(path)
    assert table.ids == ("P1",) and len(table.warnings) == 6
    assert table.warnings[-1] == "list.csv: 9994 more rows are passed over as these"


def test_ids_of_any_length_are_compared_but_for_their_zeros(copied: Callable[[int], Path]) -> None:
    root = copied(2)
    (root / "phantom_0002").rename(root / "007")
    path = root.parent / "list.csv"
    path.write_text(f"patient_id\nphantom_0001\n{'7' * 5000}\n7\n")
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={root}:split_csv={path}")
    assert "7 (is it 007?)" in dataset.warnings[0] and "leading zeros" in dataset.warnings[0]


def test_without_labels_nothing_is_split_on_request(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "d", 2, SMALL)
    (tmp_path / "d" / "labels.csv").unlink()
    assert run(["split", str(tmp_path / "d"), "--out", str(tmp_path / "s"), "--if-labelled"]) == 0
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "text", ["value,name\n0,background\n1,gland\n", "label_id;structure\n1;gland\n", "patient_id\nnobody\n"]
)
def test_a_list_about_something_else_that_was_only_found_gives_no_labels(
    copied: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    root, out = copied(2), tmp_path / "lists"
    (root / "labels.csv").write_text(text)
    assert run(["split", str(root), "--out", str(out), "--if-labelled"]) == 0
    told = capsys.readouterr()
    assert "every patient is used" in told.out and not out.exists()
    assert "labels.csv has no column 'label' (it has: " in told.err
    assert run(["split", str(root), "--out", str(out), "--labels", str(root / "labels.csv")]) != 0
    assert run(["split", str(root), "--out", str(out), "--shares", "50,50,0"]) == 0
    assert [len(read_patient_table(out / f"{name}.csv").ids) for name in ("train", "val")] == [1, 1]


FOREIGN = [
    ("value,label\n0,background\n1,gland\n", "None of the 2 patients of "),
    ("", "has no patients"),
    ("label,label\nphantom_0001,1\n", "two columns"),
    ("patient_id,label\nphantom_0001,\0\n", "not a UTF-8 text file"),
]


@pytest.mark.parametrize(("text", "said"), FOREIGN, ids=["other-ids", "empty", "twice", "binary"])
def test_a_foreign_list_that_was_only_found_ends_no_split(
    copied: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    root, out = copied(3), tmp_path / "lists"
    (root / "labels.csv").write_text(text)
    words = ["split", str(root), "--out", str(out)]
    assert run([*words, "--if-labelled"]) == 0 and not out.exists()
    assert run([*words, "--json"]) == 0
    told = capsys.readouterr()
    assert said in told.err and str(root / "labels.csv") in told.err
    assert "Nobody named this list: no labels are taken from it" in told.err
    assert not json.loads(told.out.splitlines()[-1])["stratified"]
    assert read_patient_table(out / "train.csv").labels is None
    for named in (["--labels", str(root / "labels.csv")], ["--label-column", "label"]):
        assert run([*words[:-1], str(tmp_path / "other"), *named]) != 0
        told = capsys.readouterr()
        assert said in told.err and "Nobody" not in told.err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("labels", "said", "kept"),
    [
        (["benign", "cancer", "benign"], "3 of 3 labels, such as 'benign' of phantom_0001", None),
        (["1", "2026-03-01", "0"], "1 of 3 labels, such as '2026-03-01' of phantom_0002", ["1", "", "0"]),
    ],
)
def test_odd_labels_of_a_list_that_was_only_found_are_left_out(
    copied: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    labels: list[str],
    said: str,
    kept: list[str] | None,
) -> None:
    root, out = copied(3), tmp_path / "lists"
    names = [f"phantom_{number:04d}" for number in range(1, 4)]
    rows = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    (root / "labels.csv").write_text("patient_id,label\n" + "".join(rows))

    def dealt(*named: str) -> tuple[dict[str, str] | None, str]:
        assert run(["split", str(root), "--out", str(out), "--json", *named]) == 0
        told = capsys.readouterr()
        tables = [read_patient_table(out / f"{name}.csv") for name in ("train", "val", "test")]
        assert json.loads(told.out)["stratified"] == (tables[0].labels is not None)
        if tables[0].labels is None:
            return None, told.err
        pairs = (pair for table in tables for pair in zip(table.ids, table.labels or (), strict=True))
        return dict(pairs), told.err

    found, told = dealt()
    assert f"labels.csv: {said}, are no class numbers" in told and "they are left out" in told
    assert found == (None if kept is None else dict(zip(names, kept, strict=True)))
    for named in (["--labels", str(root / "labels.csv")], ["--label-column", "label"]):
        found, told = dealt(*named)
        assert found == dict(zip(names, labels, strict=True)) and "the lists are stratified by them" in told


def test_a_column_that_was_asked_for_must_be_there(
    copied: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = copied(3), tmp_path / "lists"
    words = ["split", str(root), "--out", str(out), "--label-column", "grade"]
    assert run(words) == 2
    assert "to read the column 'grade' from" in capsys.readouterr().err
    (root / "labels.csv").write_text("patient_id,label\nphantom_0001,1\n")
    assert run(words) == 2 and not out.exists()
    assert "has no column 'grade' (it has: patient_id, label)" in capsys.readouterr().err
    assert run([*words, "--if-labelled"]) == 0 and not out.exists()
    (root / "labels.csv").write_text("patient_id,label,Grade_Group\nphantom_0001,1,\n")
    assert run([*words[:-1], "grade_gruop"]) == 2 and not out.exists()
    told = capsys.readouterr().err
    assert (
        "(it has: patient_id, label, Grade_Group); name another with --label-column, as 'Grade_Group'."
        in told
    )
    assert run([*words[:-1], "Grade_Group"]) == 0
    assert "no patient has a label, so the lists are not stratified" in capsys.readouterr().err


@pytest.mark.parametrize("beside", [True, False], ids=["found", "named"])
def test_odd_labels_end_nothing_that_needs_none(
    copied: Callable[[int], Path], tmp_path: Path, beside: bool
) -> None:
    root = copied(3)
    path = (root if beside else tmp_path) / "labels.csv"
    path.write_text("patient_id,label\nphantom_0001,1\nphantom_0002,benign\nphantom_0003,2026-03-01\n")
    text = f"root={root}" + ("" if beside else f":split_csv={path}")
    dataset = make_dataset(dataset_str=f"ProstateSSL:{text}")
    assert dataset.case_ids == ["phantom_0001", "phantom_0002", "phantom_0003"]
    assert dataset.labels.tolist() == [1, -1, -1]
    (told,) = dataset.warnings
    assert told.startswith(f"{path}: the label 'benign' of phantom_0002 is no class number")
    assert told.endswith("(as 1 more); they are left out")
    with pytest.raises(ProstateError, match="the label 'benign' of phantom_0002"):
        dataset.require_labels()
    with pytest.raises(ProstateError, match="the label 'benign' of phantom_0002"):
        make_dataset(dataset_str=f"ProstateSupervised:{text}")


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(("text", "said"), FOREIGN[1:], ids=["empty", "twice", "binary"])
def test_a_foreign_list_beside_the_cases_ends_nothing_that_needs_no_labels(
    copied: Callable[[int], Path], tmp_path: Path, text: str, said: str, listed: bool
) -> None:
    root = copied(2)
    (root / "labels.csv").write_text(text)
    (tmp_path / "list.csv").write_text("patient_id\nphantom_0002\n")
    options = f"root={root}" + (f":split_csv={tmp_path / 'list.csv'}" if listed else "")
    dataset = make_dataset(dataset_str=f"ProstateSSL:{options}")
    assert len(dataset) == (1 if listed else 2) and (dataset.labels == -1).all()
    (told,) = dataset.warnings
    assert said in told and str(root / "labels.csv") in told
    assert told.endswith("; no labels are taken from it")
    with pytest.raises(ProstateError, match=said):
        make_dataset(dataset_str=f"ProstateSupervised:{options}")


def test_lists_without_odd_labels_give_labels_whatever_the_kind(phantoms: Path) -> None:
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={phantoms}")
    dataset.require_labels()
    assert set(dataset.labels.tolist()) == {0, 1} and not dataset.warnings


@pytest.mark.parametrize("column", ["patient_id", "case_id", "id", "ID", "subject", "name", "Fall"])
def test_id_columns_and_leading_zeros(tmp_path: Path, column: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        f"age,{column}\n50,007\n60,08\n" if column != "Fall" else "Fall,x\n007,1\n08,2\n",
        encoding="utf-8-sig",
    )
    table = read_patient_table(path)
    assert table.ids == ("007", "08")
    assert bool(table.warnings) == (column == "Fall")


@pytest.mark.parametrize(
    ("header", "column", "said"),
    [
        ("age,Patient_ID", "Patient_ID", ""),
        ("name,CASE_ID", "CASE_ID", ""),
        ("Id,ID,id", "id", ""),
        ("name,PatientID", "name", "from 'name', not from 'PatientID'; name that 'patient_id'"),
        ("age,Patient ID", "age", "from 'age', not from 'Patient ID'"),
        ("patient_id,CaseID", "patient_id", ""),
        (",PatientID,label", "PatientID", "no known ID column"),
        (",label", "", "no known ID column"),
        ("Label,Fall", "Fall", "no known ID column"),
    ],
)
def test_which_column_has_the_ids(tmp_path: Path, header: str, column: str, said: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"{header}\na,b,c\n")
    table = read_patient_table(path)
    assert table.column == column
    assert table.ids == ("abc"[header.split(",").index(column)],)
    assert said in " ".join(table.warnings) if said else not table.warnings


def test_a_list_is_looked_for_beside_the_config_and_in_the_root(phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "train.csv").write_text("patient_id\nphantom_0002\n")
    text = f"ProstateSSL:root={phantoms}:split_csv=split/train.csv"
    assert make_dataset(dataset_str=text, beside=tmp_path).case_ids == ["phantom_0002"]
    with pytest.raises(ProstateError, match=r"split/train\.csv was not found"):
        make_dataset(dataset_str=text)


def test_evaluation_looks_at_the_gland(phantoms: Path) -> None:
    dataset = make_dataset(dataset_str=f"ProstateSSL:split=VAL:root={phantoms}:random_slices=True")
    sample = dataset.sample(0)
    assert sample.image.shape == (3, 224, 224) and sample.mask.float().mean() > 0.1
    assert sample.slice_index == int((dataset.prepared(0).array[3] > 0.5).sum(axis=(1, 2)).argmax())
    hidden = make_dataset(dataset_str=f"ProstateSSL:root={phantoms}:percentage_labels=0").sample(0)
    assert hidden.slice_index == 5 and not hidden.mask.any()


@pytest.mark.parametrize(
    "text",
    [
        b"patient_id,label\r\n007,1\r\n08,0\r\n",
        b"\xef\xbb\xbfpatient_id;label\r\n007;1\r\n08;0\r\n",
        b'"patient_id","label"\n"007","1"\n"08","0"\n',
        b'"label";"patient_id"\r\n"1";"007"\r\n"0";"08"',
        b"patient_id\tlabel\n007\t1\n08\t0\n",
        b"\n\npatient_id , label \n 007 , 1 \n,\n\n08,0,surplus\n",
        b"age,patient_id,label\r50,007,1\r60,08,0\r",
        b"\xef\xbb\xbfsep=;\r\npatient_id;label;note\r\n007;1;a,b\r\n08;0;c,d\r\n",
        b'patient_id;label;"grade (0, 1, 2, 3)"\n007;1;2\n08;0;3\n',
        b'patient_id;label\n="007";1\n"=""08""";0\n',
    ],
    ids=[
        "windows",
        "bom-semicolons",
        "quoted",
        "quoted-semicolons",
        "tabs",
        "blanks",
        "old-mac",
        "excel-sep",
        "commas-in-quotes",
        "excel-text",
    ],
)
def test_lists_as_spreadsheets_write_them(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "Liste ä.csv"
    path.write_bytes(text)
    table = read_patient_table(path)
    assert table.ids == ("007", "08") and table.labels == ("1", "0") and not table.warnings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no patients"),
        (b"\n\n \n", "no patients"),
        (b"patient_id\n", "no patients"),
        (b"patient_id,label\n,1\n,0\n", "is empty"),
        (b"patient_id,patient_id\na,b\n", "two columns"),
        ("patient_id\nP1\n".encode("utf-16"), "UTF-8"),
        (b"patient_id\n\x00\x01\xff\xfe\n", "UTF-8"),
        (b"patient_id\n" + b'"' + b"x" * 200000, "no CSV"),
        ("patient_id\nphantom_0001\n".encode("utf-16-le"), "UTF-8"),
        (
            b'patient_id,note\nphantom_0001,x\nphantom_0002,"x\nphantom_0003,x\n',
            "below its line 2 .* never closed",
        ),
    ],
    ids=[
        "empty",
        "blank",
        "header",
        "no-ids",
        "twice",
        "utf-16",
        "binary",
        "huge-field",
        "utf-16-no-mark",
        "open-quote",
    ],
)
def test_lists_that_cannot_be_read_are_refused_by_name(
    phantoms: Path, tmp_path: Path, text: bytes, said: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text)
    with pytest.raises(ProstateError, match=said) as refused:
        make_dataset(dataset_str=f"ProstateSSL:root={phantoms}:split_csv={path}")
    assert "list.csv" in refused.value.message


def test_a_patient_that_is_listed_twice_is_used_once_and_said(phantoms: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("patient_id\nphantom_0002\nphantom_0001\nphantom_0002\n")
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={phantoms}:split_csv={path}")
    assert dataset.case_ids == ["phantom_0002", "phantom_0001"]
    assert any("listed twice" in warning for warning in dataset.warnings)


@pytest.mark.parametrize(
    ("folder", "written", "said"),
    [
        ("007", "7", "7 (is it 007?)"),
        ("007", "7.0", "7.0 (is it 007?)"),
        ("Müller 3", "müller 3", "müller 3 (is it Müller 3?)"),
        ("Zoë", "Zoe\u0308", "its folder spells the accents otherwise"),
        ("患者四", "患者五", ": 患者五. IDs"),
        ("PCA-0123", "PCA_0123", "PCA_0123 (is it PCA-0123?)"),
        ("phantom_0009", "phantom_0001 ", None),
    ],
)
def test_an_id_without_a_folder_is_said_with_the_folder_that_may_be_meant(
    copied: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
    folder: str,
    written: str,
    said: str | None,
) -> None:
    root = copied(2)
    (root / "phantom_0002").rename(root / folder)
    path = root.parent / "list.csv"
    path.write_text(f"patient_id\nphantom_0001\n{written}\n", encoding="utf-8")
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={root}:split_csv={path}")
    assert dataset.case_ids == ["phantom_0001"]
    warnings = " ".join(dataset.warnings)
    if said is None:
        assert "listed twice" in warnings and "no folder" not in warnings
        return
    assert "list.csv: 1 of 2 patients has no folder" in warnings and said in warnings
    assert ("leading zeros" in warnings) == (folder == "007")
    assert run(["cache", str(root), "--out", str(root.parent / "cache"), "--split", str(path)]) == 0
    assert said in capsys.readouterr().err
    assert run(["check", str(root), "--split", str(path), "--json"]) == 1
    (told,) = [r for r in json.loads(capsys.readouterr().out)["remarks"] if r["kind"] == "missing-folder"]
    assert told["subject"] == written and said.partition("(")[2] in told["text"]
    path.write_text(f"patient_id\n{written}\n", encoding="utf-8")
    with pytest.raises(ProstateError, match="None of the 1 patients") as refused:
        make_dataset(dataset_str=f"ProstateSSL:root={root}:split_csv={path}")
    assert said in refused.value.message


def test_ten_thousand_ids_without_a_folder_are_compared_in_seconds() -> None:
    folders = [f"case-{number:05d}" for number in range(10_000)] + ["007"]
    names = [f"CASE_{number:05d}" for number in range(9_998)] + ["CASE-00042", "7"]
    begun = time.monotonic()
    told = list(with_guesses(names, names, folders))
    assert time.monotonic() - begun < 60  # comparing every name with every folder takes minutes
    assert told[-2:] == ["CASE-00042 (is it case-00042?)", "7 (is it 007?)"]
    assert told[50] == "CASE_00050"


def test_labels_that_contradict_each_other_are_said(phantoms: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("patient_id,label\nphantom_0002,1\nphantom_0001,0\nphantom_0002,0\n")
    dataset = make_dataset(dataset_str=f"ProstateSupervised:root={phantoms}:split_csv={path}")
    assert dataset.labels.tolist() == [1, 0]
    assert any("with labels '1' and '0'; its first line counts" in said for said in dataset.warnings)


def test_a_label_column_of_another_spelling_is_said(phantoms: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("patient_id,Label\nphantom_0002,1\nphantom_0001,0\n")
    words = "list.csv: the column 'Label' is not read; name it 'label'"
    assert words in make_dataset(dataset_str=f"ProstateSSL:root={phantoms}:split_csv={path}").warnings
    with pytest.raises(ProstateError, match="it has: patient_id, Label"):
        make_dataset(dataset_str=f"ProstateSupervised:root={phantoms}:split_csv={path}")


@pytest.mark.parametrize(
    "label", ["none", "inf", "1e30", "-2", "0.5", "1,000", "1,5", "TRUE", "20260101", "1_0"]
)
def test_a_label_that_is_no_class_is_refused_by_name(phantoms: Path, tmp_path: Path, label: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f'patient_id,label\nphantom_0002,1\nphantom_0001,"{label}"\n')
    with pytest.raises(ProstateError, match=f"the label '{label}' of phantom_0001 is no class number"):
        make_dataset(dataset_str=f"ProstateSupervised:root={phantoms}:split_csv={path}")


def test_empty_columns_at_the_end_hide_no_unnamed_index(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(";label;;\n007;1;;\n08;0;;\n")
    table = read_patient_table(path)
    assert table.ids == ("007", "08") and table.labels == ("1", "0")


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("label", ["NA", "N/A", "nan", "NaN", "-1", "-1.0"])
def test_labels_that_mean_unknown_are_said_once_with_their_count(
    copied: Callable[[int], Path], tmp_path: Path, label: str, beside: bool
) -> None:
    root = copied(3)
    path = (root if beside else tmp_path) / "labels.csv"
    path.write_text(f"patient_id,label\nphantom_0001,{label}\nphantom_0002,1\nphantom_0003,{label}\n")
    text = f"ProstateSupervised:root={root}" + ("" if beside else f":split_csv={path}")
    dataset = make_dataset(dataset_str=text)
    assert sorted(dataset.labels.tolist()) == [-1, -1, 1]
    assert dataset.warnings == [f"labels.csv: labels that mean unknown ({label}): 2 of 3"]


def test_german_decimals_are_classes(phantoms: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("patient_id;label\nphantom_0002;1,0\nphantom_0001;2,00\n")
    dataset = make_dataset(dataset_str=f"ProstateSupervised:root={phantoms}:split_csv={path}")
    assert dataset.labels.tolist() == [1, 2]


def test_a_list_without_a_header_does_not_lose_its_first_patient(phantoms: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("phantom_0001\nphantom_0002\n")
    with pytest.raises(ProstateError, match=r"no header: its first line names the patient phantom_0001"):
        make_dataset(dataset_str=f"ProstateSSL:root={phantoms}:split_csv={path}")


@pytest.mark.parametrize("beside", [True, False])
def test_labels_of_another_list_are_not_taken_in_silence(
    copied: Callable[[int], Path], tmp_path: Path, beside: bool
) -> None:
    root, path = copied(2), tmp_path / "list.csv"
    if beside:
        (root / "labels.csv").write_text("patient_id,label\nphantom_0001,1\nphantom_0002,0\n")
    path.write_text("patient_id,recurrence\nphantom_0001,0\nphantom_0002,1\n")
    with pytest.raises(ProstateError, match=r"no column 'label' \(it has: patient_id, recurrence") as error:
        make_dataset(dataset_str=f"ProstateSupervised:root={root}:split_csv={path}")
    assert error.value.exit_code == 2
    dataset = make_dataset(dataset_str=f"ProstateSSL:root={root}:split_csv={path}")
    assert any("labels are taken from" in said for said in dataset.warnings) == beside
    path.write_text("patient_id\nphantom_0001\nphantom_0002\n")
    if beside:
        dataset = make_dataset(dataset_str=f"ProstateSupervised:root={root}:split_csv={path}")
        assert dataset.labels.tolist() == [1, 0] and not dataset.warnings


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [((1.0, 0.0, 0.0), (16, 0, 0)), ((0.8, 0.2, 0.0), (13, 3, 0)), ((0.98, 0.01, 0.01), (14, 1, 1))],
)
def test_a_list_without_a_share_stays_empty(shares: tuple[float, ...], sizes: tuple[int, ...]) -> None:
    assert list_sizes(16, shares) == sizes
