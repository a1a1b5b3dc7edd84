"""Settings: the composed file, the paper's values as literals, and every kind of mistake refused by name."""

import copy
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import pytest
import yaml
from configure import composed as compose
from configure import configured

from agego_lib import params
from agego_lib.params import SettingsError

PROFILES, DATASETS = ("quick", "paper", "smoke", "release"), ("synthetic", "egopw")


@pytest.fixture(scope="module")
def composed(project):
    """Hydra's composition of conf/, as a plain dict, for some overrides."""
    return lambda *overrides: compose(project, {}, overrides)


@pytest.fixture(scope="module")
def raw(project):
    return yaml.safe_load((project / "params.yaml").read_text())


def leaves(node, path=()):
    """((key, ...), value) of every setting that is no section."""
    for key, value in node.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]


def changed(raw, path, value):
    """A copy of `raw` with the setting at a dotted path replaced; list places are written [i]."""
    raw = copy.deepcopy(raw)
    *parents, last = [int(k[:-1]) if k.endswith("]") else k for k in re.split(r"\.|\[", path)]
    node = raw
    for key in parents:
        node = node[key]
    node[last] = value
    return raw


def refused(raw, path, value=None):
    """Assert that `raw` is refused with a message that starts with the dotted name and shows the value."""
    with pytest.raises(SettingsError) as caught:
        params.from_dict(raw)
    assert re.match(rf"params\.yaml: {re.escape(path)} (is|expected)\b", str(caught.value)), str(caught.value)
    if value is not None:
        assert repr(value) in str(caught.value) and "expected" in str(caught.value)


def test_params_yaml_is_what_conf_composes_to(composed, raw):
    assert raw == composed() == composed("profile=quick", "dataset=synthetic", "tables=profile")


@pytest.fixture
def chosen(project):
    """A params.yaml of the real data and the paper profile with two changes made by hand."""
    raw, _ = configured(project, None, ["dataset=egopw", "profile=paper"])
    return changed(changed(raw, "seed", 3), "pose.epochs", 9)


def test_what_is_not_named_stays_as_it_is(project, composed, chosen):
    """The data set, the profile and own changes hold until another is named (README: what this working copy runs)."""
    new, kept = configured(project, chosen, ["tables=all"])
    assert new["run"] == {"dataset": "egopw", "profile": "paper", "tables": "all"}
    assert kept == {"seed": 3, "pose.epochs": 9} and (new["seed"], new["pose"]["epochs"]) == (3, 9)
    given = composed("dataset=egopw", "profile=paper", "tables=all")
    assert new == changed(changed(given, "seed", 3), "pose.epochs", 9)
    new, kept = configured(project, new, ["profile=quick", "pose.epochs=4"])
    assert kept == {"seed": 3} and new["pose"]["epochs"] == 4 and new["dataset"]["source"] == "files"
    new, kept = configured(project, new, [], fresh=True)
    assert not kept and new == composed("dataset=egopw", "profile=quick")


def test_another_profile_has_its_own_tables(project, composed):
    """After `make tables` or tables=seeds, whose rows are another profile's, or refused there."""
    for tables in ("all", "seeds"):
        chosen, _ = configured(project, None, [f"tables={tables}"])
        for profile in ("distances", "release", "paper"):
            assert configured(project, chosen, [f"profile={profile}"])[0] == composed(f"profile={profile}")
        assert configured(project, chosen, ["profile=quick", "dataset=synthetic"])[0] == chosen
    new, _ = configured(project, chosen, ["profile=hidden", "tables=seeds"])
    assert new == composed("profile=hidden", "tables=seeds")


@pytest.mark.parametrize("dataset", DATASETS)
def test_all_tables_have_the_baselines_that_a_data_set_can_train(composed, dataset):
    """The published sets lack the depth of the scene; nothing asks for it there."""
    listed = composed(f"dataset={dataset}", "profile=paper", "tables=all")["ablation"]["baselines"]
    assert {*get_args(params.BaselineName)} - {*listed} == (
        {"egopw", "sceneego", "sceneego_true_depth"} if dataset == "egopw" else set()
    )
    assert len({*listed}) == len(listed) > 5


def test_own_places_of_a_data_set_go_with_it(project, composed, chosen):
    chosen = changed(chosen, "dataset.egopw.root", "/elsewhere")
    assert configured(project, chosen, ["profile=quick"])[0]["dataset"]["egopw"]["root"] == "/elsewhere"
    new, kept = configured(project, chosen, ["dataset=synthetic"])
    assert new["dataset"] == composed()["dataset"] and kept == {"seed": 3, "pose.epochs": 9}


def test_a_file_that_names_a_group_by_hand_is_refused_and_mended(project, composed, chosen):
    """`dvc exp run -S dataset=egopw` would leave this behind."""
    broken = {**chosen, "dataset": "synthetic"}
    refused(broken, "dataset", "synthetic")
    with pytest.raises(SettingsError, match=r"profile is not a setting; choose .*scripts/configure\.py"):
        params.from_dict({**chosen, "profile": "paper"})
    assert configured(project, broken, ["dataset=egopw"])[0] == chosen


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("profile=quck", "Available options in 'profile': distances hidden paper quick release smoke"),
        ("dataset=mine", "Available options in 'dataset': egopw synthetic"),
        ("pose.epoch=3", "Could not override 'pose.epoch'. There is pose.epochs"),
        ("epochs=3", "There is heatmap.optimiser.epochs, motion.optimiser.epochs, pose.epochs, finetune.epochs"),
        ("zzz=3", "Could not override 'zzz'. params.yaml has every setting"),
        ("pose.epochs=none", "pose.epochs is 'none'; expected a whole number at least 1"),
    ],
)
def test_choices_that_there_are_not(project, chosen, override, found):
    with pytest.raises(SettingsError) as caught:
        configured(project, chosen, [override])
    assert found in str(caught.value) and "config search path" not in str(caught.value).lower()


def test_paths_start_at_the_project_also_in_dvcs_copies(raw, tmp_path, monkeypatch):
    weights = tmp_path / "weights/resnet.pth"
    weights.parent.mkdir()
    weights.touch()
    copies = tmp_path / ".dvc/tmp/exps/standalone/tmp1"
    (copies / "weights").mkdir(parents=True)
    (copies / "weights/own.pth").touch()
    assert params.locate(copies, "weights/resnet.pth") == copies / "weights/resnet.pth"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert params.locate(copies, "weights/resnet.pth") == weights
    assert params.locate(copies, "weights/own.pth") == copies / "weights/own.pth"
    assert params.locate(tmp_path, "nowhere") == tmp_path / "nowhere"
    assert params.locate(copies, "/elsewhere") == params.locate(tmp_path, "/elsewhere") == Path("/elsewhere")
    raw = changed(changed(raw, "heatmap.init", "weights/resnet.pth"), "motion.checkpoint", "weights/resnet.pth")
    settings = params.located(params.from_dict(raw), copies)
    assert settings.heatmap.init == settings.motion.checkpoint == str(weights)
    assert settings.visual.init == "heatmap_encoder"


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_loads_with_every_data_set(composed, profile, dataset):
    raw = composed(f"profile={profile}", f"dataset={dataset}")
    settings = asdict(params.from_dict(raw))
    # Nothing is lost, defaulted or changed on the way.
    assert dict(leaves(settings)) == {
        path: tuple(value) if isinstance(value, list) else value for path, value in leaves(raw)
    }
    assert settings["dataset"]["source"] == {"synthetic": "synthetic", "egopw": "files"}[dataset]


# Where the paper gives a value: dotted name, value.
PAPER = {
    # Sec. 4.2, 2D heatmap training
    "prepare.size": 256,
    "heatmap.sigma": 2,
    "heatmap.optimiser.epochs": 20,
    "heatmap.optimiser.batch_size": 8,
    "heatmap.loss": "bce",
    "heatmap.pos_weight": 1,
    "engine.precision": "16-mixed",
    # Sec. 3.1: ResNet-18 and an FPN
    "heatmap.init": "imagenet",
    # Sec. 4.2, 3D pose estimation training
    "window.length": 64,
    "window.stride": 32,
    **{
        f"{run}.{name}": value
        for run in ("pose", "finetune")
        for name, value in {"epochs": 30, "batch_size": 8, "lr": 1e-3, "lr_final": 1e-4}.items()
    },
    # Sec. 3.2: w = 8 frames are four on each side, as ActionFormer's window of 9
    "visual.backbone": "resnet50",
    "visual.init": "imagenet",
    "motion.depth": 8,
    "motion.local_blocks": 4,
    "motion.window": 9,
    # Sec. 3.3
    "decoder.layers": 3,
    "decoder.heads": 4,
    # Sec. 3.4
    "loss.lambda_pos": 1.0,
    "loss.lambda_bone": 0.1,
    "loss.lambda_cos": 0.01,
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_paper_profile_holds_the_papers_values(composed, dataset):
    found = asdict(params.from_dict(composed("profile=paper", f"dataset={dataset}")))
    values = {".".join(path): value for path, value in leaves(found)}
    assert {name: values[name] for name in PAPER} == PAPER
    assert values["motion.checkpoint"]  # Sec. 3.2: pretrained on Ego4D
    assert values["heatmap.optimiser.grad_clip"] > 0  # Sec. 4.2: "with gradient clipping"


@pytest.mark.parametrize("profile", [p for p in PROFILES if p != "release"])  # which is for use, not for the paper
def test_every_profile_keeps_the_papers_method(composed, profile):
    """Smaller profiles change sizes and lengths of training, never the architecture's blocks or the loss."""
    values = {".".join(path): v for path, v in leaves(composed(f"profile={profile}"))}
    same = [n for n in PAPER if n.startswith(("loss.", "motion.", "decoder."))] + ["heatmap.loss", "heatmap.pos_weight"]
    assert {name: values[name] for name in same} == {name: PAPER[name] for name in same}


def test_each_setting_is_required_and_no_other_is_known(raw):
    for path, _ in leaves(raw):
        without = copy.deepcopy(raw)
        section = without
        for key in path[:-1]:
            section = section[key]
        del section[path[-1]]
        with pytest.raises(SettingsError, match=rf"^params\.yaml: {'.'.join(path)} is missing"):
            params.from_dict(without)
        misspelt = ".".join((*path[:-1], path[-1] + "x"))
        with pytest.raises(SettingsError, match=rf"^params\.yaml: {misspelt} is not a setting.*\b{path[-1]}\b"):
            params.from_dict(changed(raw, misspelt, 1))


def test_sections(raw):
    for section in ("heatmap", "heatmap.optimiser", "dataset.egopw"):
        for value in (None, [1], "x", 3):
            refused(changed(raw, section, value), section, value)
    with pytest.raises(SettingsError, match="heatmap is missing"):
        params.from_dict({key: value for key, value in raw.items() if key != "heatmap"})
    with pytest.raises(SettingsError, match="heatmaps is not a setting"):
        params.from_dict({**raw, "heatmaps": {}})
    for value in (None, [], "text"):
        with pytest.raises(SettingsError, match="section of settings"):
            params.from_dict(value)


def test_each_setting_refuses_other_types(raw):
    checked = 0
    for path, value in leaves(raw):
        name = ".".join(path)
        places = [(f"{name}[{i}]", v) for i, v in enumerate(value)] if isinstance(value, list) else [(name, value)]
        wrong = {bool: [0, 1, "true", None], int: [True, "3", None, 2.5, float("nan")], str: [5, True, "", ["x"]]}
        wrong[float] = [True, "1e-3", None, float("nan"), [1.0]]
        for place, found in places:
            if found is None:
                continue
            for other in wrong[type(found)]:
                refused(changed(raw, place, other), place, other)
                checked += 1
        if isinstance(value, list):
            refused(changed(raw, name, "x"), name, "x")
            refused(changed(raw, name, {}), name, {})
    assert checked > 300


def test_ablation_rows(raw):
    """Rows that no code knows, and repetitions of what the full model is already, are refused."""
    refused(changed(raw, "ablation.rows", ["no_motion", "no_head"]), "ablation.rows[1]", "no_head")
    refused(changed(raw, "ablation.seeds", [1, raw["seed"]]), "ablation.seeds", [1, raw["seed"]])
    refused(changed(raw, "ablation.heatmap_losses", ["bce"]), "ablation.heatmap_losses", "bce")
    assert params.from_dict(changed(raw, "ablation.rows", [])).ablation.rows == ()
    # Rays are of one view.
    rays = changed(raw, "ablation.rows", ["rays"])
    assert params.from_dict(changed(rays, "prepare.crop", "fovea")).ablation.rows == ("rays",)
    refused(changed(rays, "prepare.crop", "none"), "ablation.rows", ["rays"])


def test_numbers(raw):
    """A whole number will do where any number is expected, not the other way round, and becomes a float."""
    settings = params.from_dict(changed(raw, "heatmap.sigma", 2))
    assert settings.heatmap.sigma == 2 and type(settings.heatmap.sigma) is float
    refused(changed(raw, "seed", 0.0), "seed", 0.0)
    # None is a value of this one alone.
    assert params.from_dict(changed(raw, "motion.checkpoint", None)).motion.checkpoint is None
    refused(changed(raw, "motion.checkpoint", False), "motion.checkpoint", False)


def test_lists_of_fixed_length(raw):
    for name, wrong in [
        ("heatmap.fpn_channels", [8, 8, 8]),
        ("heatmap.fpn_channels", [8] * 5),
        ("render.egopw_train", [6]),
        ("render.egopw_train", [6, 2, 1]),
    ]:
        refused(changed(raw, name, wrong), name, wrong)
    blocks = ["branch.0", "branch.1"]
    assert params.from_dict(changed(raw, "motion.checkpoint_blocks", blocks)).motion.checkpoint_blocks == tuple(blocks)


@pytest.mark.parametrize(
    ("name", "allowed", "outside"),
    [
        ("seed", [0, 7], [-1]),
        ("render.scale", [0.1, 1, 1.0], [0.09, 1.01, 0, -1]),
        ("render.frames_per_sequence", [8], [7, 0]),
        ("render.egopw_train[1]", [1], [0, -2]),
        ("render.label_noise_mm", [0, 30.5], [-0.1]),
        ("render.hidden_stretches", [0, 0.5], [-0.1, 0.51]),
        ("render.others", [0, 1], [-0.1, 1.1]),
        ("render.step", [1, 8], [0]),
        ("render.anyhow", [0, 1], [-0.1, 1.1]),
        ("prepare.size", [32, 256], [0, 31, 16, 100, 250]),
        ("prepare.max_skipped", [0, 1, 0.5], [-0.01, 1.01]),
        ("prepare.workers", [1], [0]),
        ("heatmap.fpn_channels[3]", [1], [0]),
        ("heatmap.sigma", [0.01, 5], [0, -1]),
        ("heatmap.pos_weight", [0.5, 10], [0, -1]),
        ("heatmap.optimiser.epochs", [1], [0]),
        ("pose.batch_size", [1], [0]),
        ("pose.lr", [1e-9], [0, -1e-3]),
        ("finetune.lr_final", [0], [-1e-9]),
        ("motion.optimiser.warmup_steps", [0], [-1]),
        ("pose.weight_decay", [0], [-1]),
        ("pose.grad_clip", [0], [-1]),
        ("features.limit_gb", [0], [-1]),
        ("window.length", [64], [1, 0]),
        ("window.stride", [1], [0, -1]),
        ("window.max_gap", [1], [0]),
        ("motion.depth", [4], [0]),
        ("motion.local_blocks", [0, 8], [-1]),
        ("motion.drop_path", [0, 0.9], [-0.1, 1]),
        ("decoder.dropout", [0, 0.9], [-0.1, 1]),
        ("decoder.input_scale", [0.1], [0]),
        ("loss.lambda_cos", [0], [-0.1]),
        ("evaluate.pck_share", [0.01, 1], [0, 1.1]),
        ("engine.devices", [1], [0]),
        ("engine.workers", [0], [-1]),
        ("resume.every_minutes", [0, 0.5], [-1]),
        ("resume.max_faults", [0], [-1]),
    ],
)
def test_ranges(raw, name, allowed, outside):
    for value in allowed:
        params.from_dict(changed(raw, name, value))
    for value in outside:
        refused(changed(raw, name, value), name, value)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("dataset.source", ["synthetic", "files"]),
        ("dataset.sceneego.clock", ["sceneego", "egowholemocap"]),
        ("prepare.crop", ["none", "square"]),
        ("heatmap.loss", ["bce", "mse"]),
        ("visual.backbone", ["resnet18"]),
        ("engine.precision", ["32-true", "bf16-mixed", "16-mixed"]),
    ],
)
def test_choices(raw, name, choices):
    for value in choices:
        params.from_dict(changed(raw, name, value))
    for value in ("other", choices[0].upper(), None, 32, True, [choices[0]]):
        refused(changed(raw, name, value), name)
    with pytest.raises(SettingsError, match=choices[-1]):
        params.from_dict(changed(raw, name, "other"))


def test_settings_that_do_not_go_together(raw):
    refused(changed(raw, "window.stride", raw["window"]["length"] + 1), "window.stride", raw["window"]["length"] + 1)
    params.from_dict(changed(raw, "window.stride", raw["window"]["length"]))
    refused(changed(raw, "motion.local_blocks", raw["motion"]["depth"] + 1), "motion.local_blocks")
    one = {
        **raw,
        "decoder": raw["decoder"] | {"kind": "rays", "train_length": 1},
        "ablation": raw["ablation"] | {"rows": []},
    }
    params.from_dict(one)
    refused(changed(one, "loss.lambda_velocity", 1.0), "loss.lambda_velocity", 1.0)
    # The heatmap network's encoder is a ResNet-18.
    raw = changed(raw, "visual.init", "heatmap_encoder")
    refused(changed(raw, "visual.backbone", "resnet50"), "visual.backbone", "resnet50")
    params.from_dict(changed(changed(raw, "visual.backbone", "resnet50"), "visual.init", "imagenet"))


def test_load_finds_the_projects_file(project, raw, tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**raw, "seed": 123}))
    # A file of that name without conf/ beside it is not the project's.
    (tmp_path / "notebooks" / "params.yaml").write_text("seed: 5")
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    assert params.find_root() == tmp_path and params.load().seed == 123
    assert params.find_root(project / "tests") == project
    assert params.load(project / "params.yaml") == params.from_dict(raw)
    (tmp_path / "params.yaml").unlink()
    with pytest.raises(SettingsError, match=r"params\.yaml"):
        params.find_root(tmp_path / "notebooks" / "deep")


@pytest.mark.parametrize("content", [b"seed: [1", b"seed: \xff\xfe", None], ids=["yaml", "bytes", "missing"])
def test_files_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"mine\.yaml: not readable as YAML"):
        params.load(path)


def test_messages_name_the_file(tmp_path, raw):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed(raw, "heatmap.sigma", -1)))
    with pytest.raises(SettingsError, match=r"^mine\.yaml: heatmap\.sigma is -1; expected a number above 0$"):
        params.load(tmp_path / "mine.yaml")


def test_what_derives_from_settings_is_checked_too(raw):
    """Ranges hold in every copy; the file's own rules do not, as a run of another seed comes from the same file."""
    settings = params.from_dict(changed(raw, "ablation.seeds", [1]))
    assert replace(settings, seed=1).ablation.seeds == (1,)
    for change in ({"epochs": 0}, {"lr": float("inf")}, {"batch_size": 2.0}, {"grad_clip": True}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}.*\n.*a (whole )?number"):
            replace(settings.pose, **change)
    with pytest.raises(AttributeError):
        settings.pose.epochs = 3


def test_one_mistake_at_a_time(raw):
    """Names come before values, and values in the order of the file; a YAML set is no list."""
    two = changed(changed(raw, "ablation.seeds", {1, 2}), "heatmap.sigma", -1)
    refused(two, "heatmap.sigma", -1)
    refused(changed(two, "heatmap.sigma", 1), "ablation.seeds", {1, 2})
    with pytest.raises(SettingsError, match=r"^params\.yaml: window\.lenght is not a setting; known here: length, "):
        params.from_dict(changed(two, "window", {"lenght": 8}))
    with pytest.raises(SettingsError, match=r"^params\.yaml: window\[8\] is not a setting"):
        params.from_dict(changed(two, "window", {**raw["window"], 8: 8}))
