"""Configurations: published files are accepted, mistakes are named, advice is the published advice."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from prostate_ssl.cli.main import run
from prostate_ssl.config import complete_config, load_config, preset_names
from prostate_ssl.config.dataset_string import dataset_name, dataset_options, with_options
from prostate_ssl.config.explain import advised_epochs, advised_rate, explain_key, suggest
from prostate_ssl.config.loading import epoch_length, known_keys, literal, save_config
from prostate_ssl.errors import ProstateError
from prostate_ssl.models import build_model_from_cfg
from prostate_ssl.training.memory import check_memory, predicted_peak

PUBLISHED_PRESET = """
train:
  dataset_path: ProstateSSL:split=TRAIN:root=/data:split_csv=split/train.csv:mri_sequences=ax_t2wi,ax_adc,ax_dwi
  OFFICIAL_EPOCH_LENGTH: 4000
  cache_dataset: true
student: {arch: glioma_vit_base, block_chunks: 0, drop_path_uniform: true, patch_size: 14, layerscale: 1.0e-05}
compute_precision:
  grad_scaler: true
  teacher: {backbone: {sharding_strategy: SHARD_GRAD_OP, mixed_precision: {param_dtype: fp16, reduce_dtype: fp16}}}
crops: {intensity_aug: null, gamma_range: [0.75, 1.5], global_crops_size: 224, local_crops_size: 98}
optim: {base_lr: 1e-4, clip_grad: 3.0}
evaluation: {eval_period_iterations: 0, metric_types: [mcc, f1]}
MODEL: {WEIGHTS: ""}
"""


def test_a_published_file_is_accepted_as_it_is(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text(PUBLISHED_PRESET)
    cfg = load_config(path, ["optim.epochs=3", "train.seed=4"])
    assert (cfg.student.arch, cfg.optim.base_lr, cfg.optim.epochs, cfg.train.seed) == (
        "glioma_vit_base",
        1e-4,
        3,
        4,
    )
    assert cfg.dino.head_n_prototypes == 65536 and cfg.teacher.momentum_teacher == 0.992


def test_what_dinov2_adds_for_its_models_with_registers_is_accepted(tmp_path):
    path = tmp_path / "dinov2.yaml"
    path.write_text(
        "student: {arch: medical_vit_tiny, patch_size: 14, num_register_tokens: 4, "
        "interpolate_antialias: true, interpolate_offset: 0.0}\n"
        "crops: {global_crops_size: 518, local_crops_size: 98}\n"
    )
    model = build_model_from_cfg(load_config(path), only_teacher=True)
    assert (model.num_register_tokens, model.interpolate_antialias, model.interpolate_offset) == (4, True, 0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.bacth_size_per_gpu=4", r"Unknown key train\.bacth_size_per_gpu.*train\.batch_size_per_gpu"),
        ("optim.lr_base=1", r"Unknown key optim\.lr_base.*optim\."),
        ("epochs=3", r"optim\.epochs"),
        ("optim.epochs=many", r"optim\.epochs.*many"),
        ("crops.global_crops_size=192", "182 or 196"),
        ("student.ffn_layer=moe", r"student\.ffn_layer is 'moe'.*mlp"),
        ("train.OFFICIAL_EPOCH_LENGTH=often", "whole number or auto"),
        ("ibot.mask_ratio_min_max=[0.5,0.1]", "rising"),
        ("crops.gamma_range=[1]", "two are needed"),
        ("compute_precision.student.backbone.sharding_strategy=HALF", "FULL_SHARD"),
        ("precision=fp8", "fp32, bf16"),
        ("train.batch_size_per_gpu=0", "at least 1"),
        ("crops.local_crops_number=-1", "at least 0"),
        ("train.seed=18446744073709551616", "at most"),
        ("optim.clip_grad=abc", r"optim\.clip_grad is 'abc'"),
        ("optim.adamw_beta1=1.5", r"optim\.adamw_beta1 is 1\.5"),
        ("teacher.teacher_temp=0", r"teacher\.teacher_temp is 0"),
        ("ibot.mask_sample_probability=1.5", "at most 1"),
        ("train.img_size=10", "smaller than a patch"),
        ("evaluation.eval_period_iterations=5", "name labelled cases"),
        ("nonsense", "section.key=value"),
        ("student.arch=medical_vit_bsae", r"student\.arch is 'medical_vit_bsae'; .* is medical_vit_base\."),
        ("student.arch=vit_large", r"student\.arch .* is medical_vit_large\. Known: medical_vit_tiny"),
        ("train.centering=sinkhorn", r"nearest known value is sinkhorn_knopp\."),
        ("crops.intensity_aug=RC", r"nearest known value is rc\."),
        ("compute_precision.teacher.dino_head.sharding_strategy=full_shard", "value is FULL_SHARD"),
        ("compute_precision.student.backbone.mixed_precision.param_dtype=fp8", r"param_dtype is 'fp8'.*fp16"),
        ("optim.base_lr=inf", r"optim\.base_lr is inf"),
        ("evaluation.metric_types=[mcc,dice]", "metric_types is 'dice'.*mean_per_class_accuracy"),
        ("evaluation.metric_types=[]", "metric_types is ''.*mcc"),
        ("optim.warmup_epochs=${optim.nothing}", r"optim\.warmup_epochs: .*optim\.nothing"),
    ],
)
def test_mistakes_are_refused_by_name(override, message):
    with pytest.raises(ProstateError, match=message) as refused:
        load_config("demo", [override])
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("verb", ["config", "train", "submit"])
def test_a_configuration_that_names_no_architecture_is_refused_before_data_are_read(verb, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {dataset_path: 'ProstateSSL:root=/nowhere'}\n")
    output = ["--output-dir", str(tmp_path / "run")] if verb != "config" else []
    assert run([verb, "--config-file", str(path), *output]) == 2
    told = capsys.readouterr().err
    assert "No architecture was named, and the published base file's own, vit_large, is none of" in told
    assert "student.arch=medical_vit_base" in told and "nearest" not in told  # one proposal, not two
    assert not (tmp_path / "run").exists()


def test_an_architecture_named_beside_the_file_completes_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {dataset_path: 'ProstateSSL:root=/nowhere'}\n")
    assert load_config(path, ["student.arch=medical_vit_base"]).student.arch == "medical_vit_base"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.dataset_path=ProstateSSL:rot=/data", "Did you mean 'root'"),
        ("train.dataset_path=ProstateSSL:root=/data:split=TRIAN", "TRAIN, VAL, TEST"),
        ("evaluation.val_dataset_path=ProstateSupervise:root=/data", "ProstateSupervised"),
    ],
)
def test_a_mistake_in_a_dataset_string_is_refused_before_there_are_data(override, message, capsys):
    assert run(["config", override]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train:\n  seed: 1  # Größe\n".encode("latin-1"), "not UTF-8"),
        (b"- a\n- b\n", "sections with keys"),
        (b"train: {seed: [\n", "not valid YAML"),
        (b"train:\n  seed: 1\n  seed: 2\n", "duplicate key"),
        (b"train:\n", "train"),
        (b"1: 2\n", "Unknown key 1"),
        (b"base: FILE\n", "stand on each other"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_words(content, message, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content.replace(b"FILE", str(path).encode()))
    assert run(["config", "--config-file", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_one_key_may_refer_to_another_one_that_stands_only_in_the_defaults(tmp_path):
    path = tmp_path / "refers.yaml"
    path.write_bytes(b"\xef\xbb\xbfoptim: {warmup_epochs: '${optim.epochs}'}\n")
    assert load_config(path, ["student.arch=medical_vit_tiny"]).optim.warmup_epochs == 100


def test_every_key_is_explained():
    for name in known_keys():
        text = explain_key(name)
        assert text.startswith(f"{name}: ") and "default:" in text and len(text) > len(name) + 20


def test_explain_and_suggest_on_the_command_line(capsys, tmp_path):
    assert run(["config", "--explain", "optim.base_lr"]) == 0
    assert "0.004" in (out := capsys.readouterr().out) and "0.00035" in out
    assert run(["config", "--explain", "optim.base_rl"]) == 2
    assert "optim.base_lr" in capsys.readouterr().err
    for k in range(9):
        (tmp_path / f"case_{k}").mkdir()
        (tmp_path / f"case_{k}" / "ax_t2wi.nii.gz").write_bytes(b"")
    assert run(["config", "--suggest", "--data", str(tmp_path), "--gpus", "2", "--batch", "8"]) == 0
    text = capsys.readouterr().out
    settings = OmegaConf.create(text)
    assert settings.optim.base_lr == 5e-4 and settings.train.OFFICIAL_EPOCH_LENGTH == 1
    assert "effective rate is 6.25e-05" in text
    path = tmp_path / "suggested.yaml"
    path.write_text(text)
    assert load_config(path).optim.epochs == 100


def test_the_published_advice():
    assert [advised_rate(g, b) for g, b in ((1, 4), (1, 8), (2, 8), (4, 8))] == [2.5e-4, 3.5e-4, 5e-4, 7e-4]
    assert [advised_epochs(n) for n in (50, 300, 501)] == [(50, 100), (200, 300), (300, 500)]
    settings, reasons = suggest(400, 1, 8)
    assert settings.train.OFFICIAL_EPOCH_LENGTH == 50 and any("16 GB" in r for r in reasons)


def test_epoch_length_is_ceil_of_cases_by_total_batch():
    cfg = load_config()
    assert (
        epoch_length(cfg, 400, 1) == 50
        and epoch_length(cfg, 401, 1) == 51
        and epoch_length(cfg, 401, 4) == 13
    )
    assert epoch_length(complete_config({}), 10, 1) == 1250


def test_a_path_that_a_dataset_string_cannot_hold_is_refused():
    with pytest.raises(ProstateError, match=r"looks like another option \(:name=\)"):
        with_options("ProstateSSL:split=TRAIN", root="/data/D x:y=1")


@pytest.mark.parametrize("folder", ["D${y}", r"C:\D${y}", r"a\\${b", "${train.seed}", r"\${y}", "$y${", "x"])
def test_a_folder_may_have_any_name_that_omegaconf_would_resolve(folder, tmp_path):
    cfg = load_config("demo", [f"train.output_dir={tmp_path}"])
    cfg.train.output_dir = literal(folder)
    save_config(cfg, tmp_path / "config.yaml")
    for again in (cfg, load_config(tmp_path / "config.yaml"), OmegaConf.create(OmegaConf.to_container(cfg))):
        assert again.train.output_dir == folder


@pytest.mark.parametrize("value", ["D${y}", "D${y", "${train.sead}"])
def test_what_cannot_be_resolved_is_refused_with_how_to_write_it_as_text(value):
    with pytest.raises(ProstateError, match=r"train.cache_dir: .*\\\$\{ is the text \$\{\.$"):
        load_config("demo", [f"train.cache_dir={value}"])
    assert load_config("demo", [r"train.cache_dir=D\${y}"]).train.cache_dir == "D${y}"
    assert load_config("demo", ["train.cache_dir=c${train.seed}"]).train.cache_dir == "c0"


def test_dataset_strings_keep_windows_drives():
    text = r"ProstateSSL:split=TRAIN:root=C:\data\mri:mri_sequences=ax_t2wi,ax_adc"
    assert dataset_name(text) == "ProstateSSL"
    assert dataset_options(text)["root"] == r"C:\data\mri"
    assert dataset_options(with_options(text, root="/x"))["root"] == "/x"


def test_the_published_model_builder_takes_partial_configurations():
    model = build_model_from_cfg(
        {"student": {"arch": "medical_vit_tiny", "patch_size": 14}, "train": {"img_size": 56}},
        only_teacher=True,
    )
    assert model.embed_dim == 192
    student, teacher, width = build_model_from_cfg(
        {"student": {"arch": "medical_vit_tiny", "patch_size": 14}}
    )
    assert width == 192 and student is not teacher


# Measured on an H200 with torch 2.11 (benchmarks/train.jsonl).
@pytest.mark.parametrize(
    ("preset", "overrides", "measured"),
    [
        ("prostate_vitb14_mm-dino", [], 9.16),
        ("prostate_vitb14_mm-dino", ["precision=bf16"], 6.17),
        ("gpu-24gb", [], 16.51),
        ("gpu-32gb", [], 17.0),
        ("gpu-80gb", [], 38.12),
    ],
)
def test_predicted_memory_is_near_what_was_measured(preset, overrides, measured):
    assert predicted_peak(load_config(preset, overrides)) == pytest.approx(measured, rel=0.12)


def test_the_list_of_presets_has_the_measured_peaks(capsys):
    assert run(["config", "--presets"]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert sorted(told) == preset_names()
    for name, measured in (("gpu-16gb", 8.9), ("gpu-24gb", 16.5), ("gpu-32gb", 17.0), ("gpu-80gb", 38.1)):
        assert f"Peak measured on an H200: {measured} GiB" in told[name]


def test_sharding_saves_memory_but_not_what_it_gathers():
    def peak(strategy: str) -> float:
        keys = [
            f"compute_precision.student.{m}.sharding_strategy={strategy}" for m in ("backbone", "dino_head")
        ]
        return predicted_peak(load_config(overrides=[*keys, "student.arch=medical_vit_giant2"]), 4)

    weights = 4 * 1.1e9 / 2**30
    assert peak("NO_SHARD") - peak("FULL_SHARD") == pytest.approx(2.25 * weights, rel=0.1)
    assert peak("SHARD_GRAD_OP") - peak("FULL_SHARD") == pytest.approx(2 * weights, rel=0.1)


def test_a_configuration_for_a_larger_card_is_refused_with_what_fits():
    with pytest.raises(ProstateError, match=r"needs about .* GiB.*batch_size_per_gpu=\d+.*gpu-16gb"):
        check_memory(load_config("gpu-24gb"), 12 * 2**30)
    for name in preset_names():
        if name.startswith("gpu-"):
            size = int(name.removeprefix("gpu-").removesuffix("gb"))
            check_memory(load_config(name), size * 2**30)


def test_the_memory_is_foreseen_for_every_accepted_spelling_of_an_architecture():
    published = load_config(overrides=["student.arch=glioma_vit_base_memeff"])
    assert predicted_peak(published) == predicted_peak(load_config())
    with pytest.raises(ProstateError, match=r"vit_large.*Known: medical_vit_tiny"):
        predicted_peak(complete_config({}))


def test_where_no_single_change_fits_a_preset_is_named():
    giant = load_config(overrides=["student.arch=medical_vit_giant2", "train.batch_size_per_gpu=64"])
    with pytest.raises(ProstateError, match="No single change makes it fit; the preset gpu-16gb does"):
        check_memory(giant, 16 * 2**30)
    with pytest.raises(ProstateError, match=r"No single change makes it fit\.$"):
        check_memory(giant, 4 * 2**30)


@pytest.mark.parametrize("value", ["false", "True", "auto"])
def test_compile_takes_yaml_booleans(value: str) -> None:
    assert load_config("demo", [f"train.compile={value}"]).train.compile.lower() == value.lower()
