"""Probes, extraction, pictures, reports and fine-tuning on small phantoms, through the command line."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf

from prostate_ssl.cli.main import run
from prostate_ssl.config import load_config
from prostate_ssl.data import make_dataset
from prostate_ssl.data.dataset import ProstateDataset
from prostate_ssl.data.dataset_string import parse_dataset_string
from prostate_ssl.data.phantom import PhantomSettings, write_phantoms
from prostate_ssl.data.preparing import PreparedCase
from prostate_ssl.errors import ProstateError
from prostate_ssl.evaluation import eval_log_regression_with_model, load_backbone, pictures
from prostate_ssl.evaluation.extract import read_table
from prostate_ssl.evaluation.features import (
    FeatureTable,
    feature_tables,
    histogram_features,
    network_features,
    slice_tokens,
)
from prostate_ssl.evaluation.periodic import keep_best
from prostate_ssl.evaluation.probe import knn_probe, leave_one_out, linear_probe, score
from prostate_ssl.evaluation.run import compared_features, evaluate_run
from prostate_ssl.files import write_figure
from prostate_ssl.report.sections import periodic_section


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_phantoms(root, 8, PhantomSettings(size=64, slices=6, seed=5))
    ids = sorted(p.name for p in root.iterdir() if p.is_dir())
    labels = {r["patient_id"]: r["label"] for r in csv.DictReader((root / "labels.csv").open())}
    for name, part in (("train", ids[:5]), ("val", ids[5:])):
        rows = "".join(f"{i},{labels[i]}\n" for i in part)
        (root / f"{name}.csv").write_text("patient_id,label\n" + rows)
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    overrides = [
        "optim.epochs=2", "train.img_size=56", "crops.global_crops_size=56", "crops.local_crops_size=28",
        "crops.local_crops_number=2",
    ]  # fmt: skip
    assert (
        run(["train", "--config-file", "demo", "--data", str(data), "--output-dir", str(folder), *overrides])
        == 0
    )
    return folder


def table(n: int, gap: float, seed: int = 0) -> FeatureTable:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return FeatureTable(
        tuple(f"c{i}" for i in range(n)),
        labels,
        (rng.normal(size=(n, 6)) + gap * labels[:, None]).astype(np.float32),
    )


def test_a_case_that_turned_bad_is_left_out_and_named(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    victims = sorted(path for path in root.iterdir() if path.is_dir())
    (victims[2] / "ax_t2wi.nii.gz").write_bytes(b"")
    dataset = ProstateDataset(parse_dataset_string(f"ProstateSupervised:root={root}:spatial_size=28"))
    found = feature_tables(dataset, {"grey": histogram_features()}, batch_size=2)["grey"]
    assert found.case_ids == tuple(path.name for path in victims if path != victims[2])
    assert len(found.labels) == len(found.vectors) == 7 and f"case {victims[2].name} left out" in caplog.text
    for folder in victims:
        (folder / "ax_t2wi.nii.gz").write_bytes(b"")
    dataset = ProstateDataset(parse_dataset_string(f"ProstateSupervised:root={root}"))
    with pytest.raises(ProstateError, match="None of the 8"):
        feature_tables(dataset, {"grey": histogram_features()})


def test_probes_separate_what_can_be_separated_and_nothing_else():
    good = linear_probe(table(40, 3), table(20, 3, 1)).metrics
    assert min(good.values()) > 0.9
    assert knn_probe(table(40, 3), table(20, 3, 1)).metrics["accuracy"] > 0.9
    assert leave_one_out(table(12, 4)).metrics["auc"] > 0.9
    assert linear_probe(table(40, 0), table(200, 0, 1)).metrics["auc"] < 0.7


def test_probes_refuse_missing_labels_and_single_classes():
    one = FeatureTable(("a", "b"), np.array([1, 1]), np.zeros((2, 3), np.float32))
    with pytest.raises(ProstateError, match="of class 1"):
        linear_probe(one, one)
    none = FeatureTable(("a",), np.array([-1]), np.zeros((1, 3), np.float32))
    with pytest.raises(ProstateError, match="label column"):
        linear_probe(none, none)


@pytest.mark.parametrize("learned", [(0, 1), (0, 1, 3)])
def test_a_class_that_was_never_learned_counts_as_wrong(learned):
    labels = np.resize(np.array(learned), 30)
    train = FeatureTable(tuple(map(str, range(30))), labels, np.eye(6, dtype=np.float32)[labels])
    judged = np.array([0, 0, 1, 2])
    val = FeatureTable(("a", "b", "c", "d"), judged, np.eye(6, dtype=np.float32)[judged])
    for probe in (linear_probe, knn_probe):
        metrics = probe(train, val).metrics
        assert metrics["accuracy"] == 0.75 and 0 < metrics["f1"] < 1 and np.isfinite(metrics["auc"])


def test_auc_without_the_second_of_two_classes_is_that_of_the_first():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert score(np.array([0, 0, 2]), probabilities, np.array([0, 1]), ["auc"])["auc"] == 1.0


def test_extraction_is_resumable_and_its_table_reads_back(trained, data, tmp_path, capsys):
    arguments = ["extract", "--run", str(trained), "--data", str(data), "--out", str(tmp_path)]
    assert run(arguments) == 0 and "8 cases computed, 0 were there" in capsys.readouterr().out
    (tmp_path / "tokens" / "phantom_0003.safetensors").write_bytes(b"cut off")
    assert run(arguments) == 0 and "1 cases computed, 7 were there" in capsys.readouterr().out
    ids, labels, vectors = read_table(tmp_path / "features.csv")
    assert len(ids) == 8 and set(labels) <= {0, 1} and vectors.shape == (8, 2 * 192)
    assert np.isfinite(vectors).all() and vectors.std(0).max() > 0


@pytest.mark.slow
def test_ranks_share_the_cases_of_an_extraction(trained, data, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    arguments = ["--run-folder", str(trained), "--data", str(data), "--out"]
    assert run(["extract", *arguments, str(alone)]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    for kept in (0, 7):  # the second time goes on from what is there
        command = [*torchrun, "-m", "prostate_ssl.cli.main", "extract", *arguments, str(shared)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        assert f"{8 - kept} cases computed by 2 processes, {kept} were there" in done.stdout
        (shared / "tokens" / "phantom_0004.safetensors").unlink()
    assert (shared / "features.csv").read_bytes() == (alone / "features.csv").read_bytes()


def test_the_table_has_no_row_of_other_weights_or_slices(trained, data, tmp_path, capsys):
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, root)
    arguments = ["extract", "--run", str(trained), "--data", str(root), "--out", str(out)]
    assert run(arguments) == 0
    (out / "tokens" / ".phantom_0001.safetensors.99.tmp").write_bytes(b"killed while it was written")
    (root / "phantom_0002" / "ax_t2wi.nii.gz").write_bytes(b"")
    assert run([*arguments, "--slices", "all"]) == 0
    assert "left out phantom_0002" in capsys.readouterr().out
    ids, _, _ = read_table(out / "features.csv")
    assert len(ids) == 7 and "phantom_0002" not in ids
    assert not list((out / "tokens").glob(".*"))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()]


@pytest.mark.slow
def test_an_extraction_whose_rank_is_killed_goes_on_with_other_ranks(trained, tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    write_phantoms(root, 40, PhantomSettings(size=64, slices=6))
    (root / "list.csv").write_text("\n".join(["id", "none", *(f"phantom_{i:04d}" for i in range(1, 41))]))
    arguments = ["extract", "--run-folder", str(trained), "--data", str(root), "--slices", "all"]
    arguments += ["--split-csv", "list.csv", "--out"]

    def start(ranks: int) -> subprocess.Popen[str]:
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={ranks}",
            "--standalone",
        ]
        command = [*torchrun, "-m", "prostate_ssl.cli.main", *arguments, str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    first = start(2)
    deadline = time.monotonic() + 120
    while len(list(out.glob("tokens/[!.]*"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(children(first.pid)[-1], signal.SIGKILL)
    first.communicate(timeout=60)  # both ranks end within the minute
    assert first.returncode != 0 and not (out / "features.csv").exists()
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("tokens/[!.]*")}
    assert 6 <= len(there) < 40
    second = start(3)
    said, _ = second.communicate(timeout=200)
    assert second.returncode == 0, said
    assert f"{40 - len(there)} cases computed by 3 processes, {len(there)} were there" in said
    assert said.count("1 of 41 patients has no folder") == 1
    assert there.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("tokens/*")}.items()
    assert run([*arguments, str(tmp_path / "alone")]) == 0
    assert (out / "features.csv").read_bytes() == (tmp_path / "alone" / "features.csv").read_bytes()


@pytest.mark.slow
def test_a_full_disk_ends_an_extraction_in_words_and_leaves_nothing_half_written(trained, data, tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from prostate_ssl.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    for verb in (["extract", "--data", str(data), "--slices", "all"], ["export"]):
        arguments = [*verb, "--run", str(trained), "--out", str(tmp_path)]
        # Without -B, Python would leave truncated .pyc files of what nobody has imported before.
        command = [sys.executable, "-B", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 1 and "The disk is full" in done.stderr, done.stderr
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_leave_one_out_is_a_plumbing_check_and_needs_labels(trained, data, tmp_path, capsys):
    assert run(["evaluate", "--run", str(trained), "--data", str(data), "--leave-one-out"]) == 0
    assert "plumbing check" in capsys.readouterr().out
    write_phantoms(tmp_path / "plain", 2, PhantomSettings(size=48, slices=4))
    (tmp_path / "plain" / "labels.csv").unlink()
    assert run(["evaluate", "--run", str(trained), "--data", str(tmp_path / "plain"), "--leave-one-out"]) == 0
    assert "No probe: the cases have no labels" in capsys.readouterr().out


@pytest.fixture
def odd_list(data, tmp_path) -> Path:
    path = tmp_path / "odd.csv"
    path.write_text((data / "train.csv").read_text().replace(",1\n", ",cancer\n", 1))
    return path


def test_labels_that_are_no_classes_make_no_probe(trained, data, odd_list, capsys):
    named = ["--data", str(data), "--train-csv", str(odd_list)]
    assert run(["evaluate", "--run", str(trained), *named, "--leave-one-out"]) == 0
    assert f"No probe: {odd_list}: the label 'cancer' of" in capsys.readouterr().out
    out = trained.parent / "features"
    words = ["extract", "--run", str(trained), "--data", str(data), "--split-csv", str(odd_list)]
    assert run([*words, "--out", str(out)]) == 0  # features need no labels
    _, labels, _ = read_table(out / "features.csv")
    assert sorted(set(labels.tolist())) == [-1, 0, 1]
    sets = [
        f"evaluation.{name}_dataset_path=ProstateSSL:split={name.upper()}:root={data}:split_csv={odd_list}"
        for name in ("train", "val")
    ]
    with pytest.raises(ProstateError, match="the label 'cancer' of"):
        evaluate_run(load_config("demo", [f"train.output_dir={trained}", *sets]))
    string = f"ProstateSSL:split=TRAIN:root={data}:split_csv={odd_list}"
    with pytest.raises(ProstateError, match="the label 'cancer' of"):
        eval_log_regression_with_model(
            load_backbone(trained).model, train_dataset_str=string, val_dataset_str=string
        )


def test_split_probe_and_missing_modalities(trained, data, capsys):
    lists = ["--train-csv", str(data / "train.csv"), "--val-csv", str(data / "val.csv")]
    base = ["evaluate", "--run", str(trained), "--data", str(data), *lists]
    assert run(base) == 0
    assert run([*base, "--missing-modalities"]) == 0
    document = json.loads((trained / "eval" / "missing_modalities.json").read_text())
    assert len(document["results"]) == 7 and "ax_t2wi + ax_adc + ax_dwi" in document["results"]
    probe = json.loads((trained / "eval" / "probe.json").read_text())
    assert set(probe["results"]) == {"trained", "untrained", "intensity histograms"}
    alone = {"linear, CLS token", "linear, mean patch token"}
    assert set(probe["results"]["trained"]) == {"linear", "k-NN"} | alone
    assert set(probe["results"]["intensity histograms"]) == {"linear", "k-NN"}
    assert "trained linear, mean patch token" in capsys.readouterr().out


def test_the_parts_of_the_features_are_the_two_tokens(trained, data):
    model = load_backbone(trained).model
    dataset = make_dataset(dataset_str=f"ProstateSupervised:root={data}")
    extractor = network_features(model)
    table = feature_tables(dataset, {"network": extractor}, [0])["network"]
    sample = dataset.sample(0, size=extractor.side)
    cls, patches = slice_tokens(model, sample.image[None], sample.present[None])
    for part, expected in (("CLS token", cls[0]), ("mean patch token", patches[0].mean((0, 1)))):
        assert np.allclose(table.columns(extractor.parts[part]).vectors[0], expected, atol=1e-6)


def test_other_weights_and_the_test_list_are_what_is_judged(trained, data, tmp_path, capsys):
    lists = ["--train-csv", str(data / "train.csv"), "--val-csv", str(data / "val.csv")]
    other = load_backbone(trained, untrained=True).model.state_dict()
    torch.save({"teacher": other}, tmp_path / "other.pth")
    base = ["evaluate", "--run", str(trained), "--data", str(data), *lists]
    assert run([*base, "--weights", str(tmp_path / "other.pth")]) == 0
    probe = json.loads((trained / "eval" / "probe.json").read_text())
    assert probe["weights"] == "other.pth"
    assert probe["results"]["trained"] == probe["results"]["untrained"]
    assert run([*base, "--weights", str(tmp_path / "absent.pth")]) == 1
    assert run([*base, "--test"]) == 2
    assert run(["evaluate", "--run", str(trained), "--test"]) == 2
    assert ".test_dataset_path" in capsys.readouterr().err
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    config = OmegaConf.load(copy / "config.yaml")
    for name, part in (("train", "train"), ("test", "val")):
        config.evaluation[f"{name}_dataset_path"] = f"ProstateSupervised:root={data}:split_csv={part}.csv"
    config.evaluation.metric_types = ["multiclass_auc", "mean_per_class_accuracy"]
    OmegaConf.save(config, copy / "config.yaml")
    assert run(["evaluate", "--run", str(copy), "--test"]) == 0
    document = json.loads((copy / "eval" / "probe_test.json").read_text())
    metrics = document["results"]["trained"]["linear"]["metrics"]
    assert document["cases"] == {"train": 5, "test": 3}
    assert set(metrics) == {"auc", "mean_per_class_accuracy"}


def test_mean_per_class_accuracy_weighs_every_class_alike():
    labels, classes = np.array([0, 0, 0, 1]), np.array([0, 1])
    always_zero = np.tile([0.9, 0.1], (4, 1))
    found = score(labels, always_zero, classes, ["accuracy", "mean_per_class_accuracy"])
    assert found == {"accuracy": 0.75, "mean_per_class_accuracy": 0.5}


def test_an_unknown_kind_of_evaluation_is_refused(trained, capsys):
    for words in (["--eval-only", "--eval", "everything"], ["--eval", "missing_sequences"]):
        assert run(["train", "--output-dir", str(trained), *words]) == 2
        assert "missing_sequences" in capsys.readouterr().err


def test_each_case_is_prepared_once_for_all_features(trained, data):
    prepared = []

    class Counting(ProstateDataset):
        def prepare(self, index: int) -> PreparedCase:
            prepared.append(index)
            return super().prepare(index)

    backbone = load_backbone(trained)
    dataset = Counting(parse_dataset_string(f"ProstateSupervised:split=TEST:root={data}"))
    extractors = compared_features(backbone, trained)
    tables = feature_tables(dataset, extractors, batch_size=6)  # more cases than the dataset keeps
    assert sorted(prepared) == list(range(8))
    assert set(tables) == {"trained", "untrained", "intensity histograms"}
    single = feature_tables(dataset, {"trained": extractors["trained"]}, [6, 2])["trained"]
    assert single.case_ids == ("phantom_0007", "phantom_0003")
    np.testing.assert_allclose(single.vectors, tables["trained"].vectors[[6, 2]], rtol=1e-4, atol=1e-5)


def test_the_published_evaluation_function(trained, data):
    string = f"ProstateSupervised:split={{}}:root={data}:split_csv={data}/{{}}.csv"
    results = eval_log_regression_with_model(
        model=load_backbone(trained).model,
        train_dataset_str=string.format("TRAIN", "train"),
        val_dataset_str=string.format("VAL", "val"),
        metric_types=["accuracy", "f1", "auc"],
        num_workers=4,
    )
    assert {"accuracy", "f1", "auc", "best_C"} == set(dict(results))
    assert results["accuracy"] == results.metrics["accuracy"] and "f1" in results
    metrics, train_features, train_labels, val_features, val_labels = results
    assert metrics["auc"] == results["auc"]
    assert train_features.shape == (5, 2, 192) and val_features.shape == (3, 2, 192)
    assert train_labels.shape == (5,) and val_labels.shape == (3,)
    again = eval_log_regression_with_model(
        load_backbone(trained).model,
        train_features,
        train_labels,
        val_dataset_str=string.format("VAL", "val"),
        metric_types=["accuracy"],
        finetune_on_val=True,
        autocast_dtype=torch.bfloat16,
        mri_sequences=["ax_t2wi", "ax_adc", "ax_dwi"],
    )
    assert 0 <= again["accuracy"] <= 1 and torch.equal(again[1], train_features)
    with pytest.raises(ProstateError, match="no sequence 'ax_dce'"):
        eval_log_regression_with_model(load_backbone(trained).model, mri_sequences=["ax_dce"])


def test_a_training_probes_its_teacher_and_keeps_the_best(data, tmp_path):
    sets = [
        f"evaluation.{name}_dataset_path=ProstateSupervised:split={name.upper()}:root={data}:split_csv={name}.csv"
        for name in ("train", "val")
    ]
    overrides = [
        *sets, "evaluation.eval_period_iterations=2", "evaluation.metric_types=[auc,mcc]", "optim.epochs=2",
        "train.img_size=56", "crops.global_crops_size=56", "crops.local_crops_size=28",
        "crops.local_crops_number=2",
    ]  # fmt: skip
    arguments = ["train", "--config-file", "demo", "--data", str(data), "--output-dir", str(tmp_path)]
    assert run([*arguments, *overrides]) == 0
    results = [
        json.loads((tmp_path / "eval" / f"training_{at}" / "results.json").read_text())["val"]
        for at in (1, 3)
    ]
    assert all(0 <= result["auc"] <= 1 and set(result) == {"auc", "mcc", "best_C"} for result in results)
    best = json.loads((tmp_path / "eval" / "best" / "best.json").read_text())
    assert best["metric"] == "auc" and best["value"] == max(result["auc"] for result in results)
    assert (
        run(["train", "--config-file", "demo", "--output-dir", str(tmp_path), "--eval-only", *overrides]) == 0
    )


def test_the_best_teacher_is_kept_and_loads_strictly_as_documented(trained, tmp_path):
    backbone = load_backbone(trained)
    state = backbone.model.state_dict()
    worse = {n: t + 1 for n, t in state.items()}
    for iteration, value, weights in ((9, 0.4, worse), (19, 0.8, state), (29, 0.6, worse)):
        keep_best(tmp_path, iteration, "mcc", {"mcc": value, "best_C": 1.0}, weights)
    content = torch.load(tmp_path / "eval" / "best" / "teacher_checkpoint.pth", weights_only=True)
    backbone.model.load_state_dict(content["teacher"])
    assert torch.equal(content["teacher"]["cls_token"], state["cls_token"])
    assert json.loads((tmp_path / "eval" / "training_29" / "results.json").read_text())["val"]["mcc"] == 0.6
    (section,) = periodic_section(tmp_path)
    assert section.text == "Kept as the best: iteration 19, by mcc."
    assert section.columns == ("iteration", "best_C (val)", "mcc (val)")
    assert section.rows == (("9", "1", "0.4"), ("19", "1", "0.8"), ("29", "1", "0.6"))


def test_pictures_report_and_best(trained, data, tmp_path, capsys):
    assert run(["visualize", "--run", str(trained), "--data", str(data), "--slices", "3"]) == 0
    assert run(["report", str(trained), "--sections", str(tmp_path / "sections.json")]) == 0
    document = json.loads((tmp_path / "sections.json").read_text())
    assert document["schema"] == "bringup/run-report/1" and document["stages"][0]["seconds"] > 0
    images = [s["image"] for s in document["sections"] if s["image"]]
    assert len(images) >= 3 and all((tmp_path / image).is_file() for image in images)
    assert run(["report", str(trained)]) == 0
    page = (trained / "report.html").read_text()
    assert "Is it training well?" in page and "data:image/png;base64" in page
    assert "waiting for data" in page and "while it was trained" not in page  # nothing was probed then
    capsys.readouterr()
    assert run(["best", str(trained)]) == 0 and "lowest loss" in capsys.readouterr().out


def test_an_onnx_graph_of_another_size_computes_what_torch_computes(trained, tmp_path, capsys):
    size = ["export", "--run", str(trained), "--out", str(tmp_path), "--onnx", "--image-size"]
    assert run([*size, "84"]) == 0
    model = load_backbone(trained).model
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.randn(batch, 3, 84, 84)
        wanted = model.forward_features(x)
        cls, patches = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(cls, wanted["x_norm_clstoken"].numpy(), atol=1e-4)
        np.testing.assert_allclose(patches, wanted["x_norm_patchtokens"].numpy(), atol=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["image_size"] == 84
    assert run([*size, "100"]) == 2 and "use 98" in capsys.readouterr().err


def test_export_is_compared_with_torch(trained, tmp_path):
    assert run(["export", "--run", str(trained), "--out", str(tmp_path), "--onnx"]) == 0
    assert {p.name for p in tmp_path.iterdir()} >= {"model.safetensors", "config.json", "model.onnx"}


def test_other_cases_are_read_as_the_run_read_its_own(trained, data, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.train.dataset_path += ":prefer_computed_dwi=True:append_label_mask=False"
    OmegaConf.save(cfg, folder / "config.yaml")
    used = []
    remember, init = used.append, ProstateDataset.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ProstateDataset,
            "__init__",
            lambda self, spec, *a, **k: (remember(spec), init(self, spec, *a, **k))[1],
        )
        lists = ["--train-csv", str(data / "train.csv"), "--val-csv", str(data / "val.csv")]
        given = ["--run", str(folder), "--data", str(data), *lists]
        assert run(["evaluate", *given]) == 0
        for task in ("segmentation", "classification"):
            assert run(["finetune", task, *given, "--out", str(tmp_path / task), "--epochs", "1"]) == 0
    capsys.readouterr()
    assert len(used) >= 6
    assert all(spec.prefer_computed_dwi and not spec.random_axes for spec in used)
    assert {spec.kind for spec in used} == {"ProstateSupervised", "ProstateSSL"}


def test_features_of_images_that_changed_are_made_anew(trained, data, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    command = ["extract", "--run", str(trained), "--data", str(root), "--out", str(tmp_path / "features")]
    assert run(command) == 0 and "8 cases computed" in capsys.readouterr().out
    shutil.copy(root / "phantom_0002" / "ax_adc.nii.gz", root / "phantom_0001" / "ax_adc.nii.gz")
    assert run(command) == 0 and "1 cases computed, 7 were there" in capsys.readouterr().out
    mode = (tmp_path / "features" / "features.csv").stat().st_mode
    assert {p.stat().st_mode for p in (tmp_path / "features" / "tokens").iterdir()} == {mode}


def test_a_checkpoint_that_cannot_be_read_or_holds_no_numbers_is_not_taken(trained, data, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (newest,) = folder.glob("model_*.pth")
    before = folder / "model_0000003.rank_0.pth"
    shutil.copy(newest, before)
    content = torch.load(newest, weights_only=True)
    for tensor in content["model"].values():
        tensor.fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pth")
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run(["best", str(folder)]) == 0
    assert newest.name not in capsys.readouterr().out
    command = ["extract", "--run", str(folder), "--data", str(data), "--out", str(tmp_path / "features")]
    assert run(command) == 0
    assert json.loads((tmp_path / "features" / "features.json").read_text())["from"] == before.name
    assert run([*command, "--weights", str(tmp_path / "nan.pth")]) == 1
    assert "weights that are no numbers" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "code.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert run([*command, "--weights", str(tmp_path / "code.pth")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "wants to run code of its own" in said and "weights_only" not in said


def test_a_run_that_may_only_be_read_is_good_enough(trained, data, tmp_path, monkeypatch):
    def refuse(path: Path, value: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("prostate_ssl.cli.configuration.write_json", refuse)  # where a stage's time is noted
    assert run(["extract", "--run", str(trained), "--data", str(data), "--out", str(tmp_path)]) == 0


def test_probes_say_on_how_many_cases_they_stand(trained, data, tmp_path, capsys):
    root, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, root)
    shutil.copytree(trained, folder)
    lines = (root / "val.csv").read_text().splitlines()
    (root / "val.csv").write_text("\n".join([*lines[:-1], lines[-1].split(",")[0] + ",\n"]))
    (root / lines[1].split(",")[0] / "ax_t2wi.nii.gz").write_bytes(b"")
    lists = ["--train-csv", str(root / "train.csv"), "--val-csv", str(root / "val.csv")]
    given = ["evaluate", "--run", str(folder), "--data", str(root), *lists]
    words = "Learned on 5 cases, judged on 1 (val) (2 listed cases have no label or cannot be read)."
    assert run(given) == 0 and words in capsys.readouterr().out
    assert json.loads((folder / "eval" / "probe.json").read_text())["cases"] == {"train": 5, "val": 1}
    assert run([*given, "--missing-modalities"]) == 0 and "Judged on 1 cases." in capsys.readouterr().out
    assert run(["report", str(folder)]) == 0 and words in (folder / "report.html").read_text()


def test_fallbacks_are_said_and_absent_modalities_drawn_as_such(trained, data, tmp_path, capsys, monkeypatch):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    (root / "phantom_0001" / "ax_adc.nii.gz").unlink()
    arguments = ["--run", str(trained), "--data", str(root), "--out", str(tmp_path / "out")]
    assert run(["extract", *arguments]) == 0
    words = "1 of 8 cases with remarks, as phantom_0001: ax_adc is missing"
    assert words in capsys.readouterr().out
    lists = ["--train-csv", str(root / "train.csv"), "--val-csv", str(root / "val.csv")]
    assert run(["evaluate", *arguments[:4], *lists]) == 0 and words in capsys.readouterr().out
    drawn = []
    monkeypatch.setattr(pictures, "_draw", lambda rows, *rest: drawn.append((rows, rest)))
    backbone = load_backbone(trained)
    pictures.attention_picture(
        backbone, make_dataset(dataset_str=f"ProstateSSL:root={root}"), 0, tmp_path / "a"
    )
    rows, (_, _, title, _) = drawn[0]
    tiles = {name: cells for name, cells in rows if name.startswith("attention")}
    assert list(tiles) == ["attention: ax_t2wi", "attention: ax_adc (absent)", "attention: ax_dwi"]
    brightest = np.max([[cell.max() for cell in cells] for cells in tiles.values()], axis=0)
    assert "one scale" in title and np.allclose(brightest, 1)


def test_an_export_that_differs_from_torch_leaves_what_was_there(trained, tmp_path, capsys, monkeypatch):
    given = ["export", "--run", str(trained), "--out", str(tmp_path)]
    assert run(given) == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr("prostate_ssl.downstream.export.TOLERANCE", -1.0)
    assert run(given) == 1 and "it is not usable" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert set(before) == {"model.safetensors", "config.json"}


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    class Faulty:
        def savefig(self, file, **_):
            file.write(b"half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_figure(path, Faulty(), dpi=100)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
