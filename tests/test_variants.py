"""What each run trains, the tables made of its results, and Table 3's counts, against hand-written references."""

import json
import re
import typing
from dataclasses import asdict, replace

import claims_page as page
import numpy as np
import pytest
import results_page
import torch
import yaml
from torch import nn

from agego_lib import params
from agego_lib.baselines import METHODS
from agego_lib.datasets import TITLES
from agego_lib.datasets.features import feature_file
from agego_lib.datasets.prepared import new_hdf5
from agego_lib.evaluation import bootstrap_interval, load_poses, pose_errors, save_poses
from agego_lib.evaluation.complexity import complexity, cost, full_cost
from agego_lib.files import write_json
from agego_lib.models import AGEgoPose, FrameEncoder
from agego_lib.models.build import ABLATIONS, untrained_model
from agego_lib.training.rows import CHANGES, LOSSES, plan, training_window
from agego_view import paper
from agego_view import tables as results
from agego_view.tables import data_name, measured_on

PAPER_ON_REAL_DATA = ("profile/paper", "dataset/egopw")
SEEDED = params.AblationSettings(
    rows=("no_motion", "sceneego_only"),
    heatmap_losses=("mse",),
    seeds=(3,),
    reseeded=("full",),
    baselines=("nearest", "egotap"),
    reseeded_baselines=("egotap",),
)


def from_files(settings):
    return replace(settings.dataset, source="files")


def differences(one, other, path=""):
    """{dotted name: (old, new)} of two dicts of settings."""
    found = {}
    for key in one:
        place = f"{path}.{key}" if path else key
        if isinstance(one[key], dict):
            found |= differences(one[key], other[key], place)
        elif one[key] != other[key]:
            found[place] = (one[key], other[key])
    return found


RAYS = {"decoder.kind", "decoder.layers", "decoder.smoothing", "decoder.stature", "loss.lambda_velocity"}


@pytest.mark.parametrize(
    ("run", "changed"),
    [
        ("pose", {}),
        ("no_motion", {}),
        ("heatmap_mse", {}),
        ("joint_embedding", {"decoder.memory_joint_embedding"}),
        ("limb_embedding", {"decoder.embedding"}),
        ("rays", RAYS | {"decoder.mirror", "decoder.turn_degrees", "decoder.hidden_share", "decoder.use_motion"}),
        ("full_long", {"pose.epochs", "finetune.epochs"}),
        ("no_motion_long", {"pose.epochs", "finetune.epochs"}),
        ("full_longer", {"pose.epochs", "finetune.epochs"}),
        (
            "rays_long",
            RAYS
            | {
                "decoder.mirror",
                "decoder.turn_degrees",
                "decoder.hidden_share",
                "decoder.use_motion",
                "pose.epochs",
                "finetune.epochs",
            },
        ),
        ("rays_motion", RAYS | {"decoder.turn_degrees", "decoder.hidden_share"}),
        (
            "rays_one_frame",
            (RAYS - {"loss.lambda_velocity"})
            | {"decoder.mirror", "decoder.turn_degrees", "decoder.hidden_share", "decoder.use_motion"}
            | {"decoder.train_length", "pose.epochs", "finetune.epochs"},
        ),
        ("rays_plain", RAYS | {"decoder.use_motion"}),
        ("full_stature", {"decoder.stature"}),
        ("full_distances", {"decoder.distances"}),
        ("window_half", {"window.length", "window.stride", "pose.batch_size", "finetune.batch_size"}),
        ("window_double", {"window.length", "window.stride", "pose.batch_size", "finetune.batch_size"}),
    ],
)
def test_a_row_changes_one_thing(settings, run, changed):
    settings = replace(
        settings, pose=replace(settings.pose, batch_size=4), finetune=replace(settings.finetune, batch_size=4)
    )
    found = plan(settings, run)
    moved = differences(asdict(settings), asdict(found.settings))
    assert set(moved) == set(changed)
    if "_long" in run:
        times = 4 if run in ("rays_long", "full_longer") else 2
        for optimiser in ("pose", "finetune"):
            before, after = moved[f"{optimiser}.epochs"]
            assert after == times * before
    if run.startswith("window"):
        # As many frames a step, and the same overlap.
        for optimiser in ("pose", "finetune"):
            sizes = [getattr(s, optimiser).batch_size * s.window.length for s in (settings, found.settings)]
            assert sizes[0] == sizes[1]
        assert moved["window.length"][1] == moved["window.length"][0] * (0.5 if run == "window_half" else 2)
        assert moved["window.stride"][1] * settings.window.length == moved["window.length"][1] * settings.window.stride


def test_rays_are_trained_on_shorter_windows_of_as_many_frames(settings):
    long = replace(settings, window=replace(settings.window, length=64, stride=32))
    found = plan(long, "rays").settings
    window, as_long = training_window(found)
    assert found.window == long.window and found.decoder.train_length == 16
    assert (window.length, window.stride, as_long) == (16, 8, 4)
    sizes = [[o.batch_size for _, o in plan(long, run).steps] for run in ("rays", "no_motion")]
    assert sizes[0] == [4 * size for size in sizes[1]]
    assert training_window(long) == (long.window, 1) and training_window(plan(settings, "rays").settings)[1] == 1


def test_rays_of_one_frame_see_as_many_a_step_and_each_about_as_often(settings):
    long = replace(settings, window=replace(settings.window, length=64, stride=32))
    looks, steps = {}, {}
    for run in (plan(long, "rays_one_frame"), plan(long, "rays")):
        window, as_long = training_window(run.settings)
        assert run.settings.window == long.window and window.length * as_long == 64
        frames = len(range(0, 128 - window.length + 1, window.stride)) * window.length
        looks[run.place] = [frames * o.epochs for _, o in run.steps]
        steps[run.place] = [o.batch_size * window.length for _, o in run.steps]
    assert steps["ablate/rays_one_frame"] == steps["ablate/rays"]
    assert looks["ablate/rays_one_frame"] == pytest.approx(looks["ablate/rays"], rel=0.1)


def test_joints_of_frames_that_are_no_neighbours_are_not_filtered(settings):
    assert plan(settings, "rays").settings.decoder.smoothing > 0
    apart = replace(settings, window=replace(settings.window, step=8))
    assert plan(apart, "rays").settings.decoder.smoothing == 0


def test_protocol(settings):
    """Sec. 4.2: train on EgoPW, then fine-tune on SceneEgo; the first two stages do one step each."""
    both = (("egopw", settings.pose), ("sceneego", settings.finetune))
    assert plan(settings, "pose").steps == both[:1] and plan(settings, "finetune").steps == both[1:]
    assert plan(settings, "no_motion").steps == both == plan(settings, "full", 3).steps
    ((name, alone),) = plan(settings, "sceneego_only").steps
    both_passes = settings.pose.epochs + settings.finetune.epochs
    assert (name, alone.epochs, alone.lr) == ("sceneego", both_passes, settings.pose.lr)
    parts = {row: plan(settings, row).switches for row in ("no_motion", "no_motion_long", "window_half", "full_long")}
    assert parts == {
        "no_motion": "no_motion", "no_motion_long": "no_motion", "window_half": "full", "full_long": "full"
    }  # fmt: skip
    assert plan(settings, "heatmap_mse").loss == "mse" and plan(settings, "no_motion").loss is None
    places = {run: plan(settings, run).place for run in ("pose", "finetune", "no_motion")}
    assert places == {"pose": "pose", "finetune": "finetune", "no_motion": "ablate/no_motion"}
    repeated = plan(settings, "full", 3)
    assert (repeated.place, repeated.settings.seed, settings.seed) == ("ablate/full-3", 3, 0)
    with pytest.raises(ValueError, match="run is 'no_head'; expected one of pose, finetune"):
        plan(settings, "no_head")


def test_every_row_of_the_settings_is_known():
    names = set(typing.get_args(params.RowName))
    assert names <= {"sceneego_only", *ABLATIONS, *CHANGES, *LOSSES} and len(names) == 24


# --- The tables ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tests(make_sequence, request):
    name = re.sub(r"\W", "_", request.node.name)
    return {
        "egopw": [make_sequence(f"{name}/a", range(5)), make_sequence(f"{name}/b", range(4))],
        "sceneego": [make_sequence(f"{name}c", range(6), dataset="sceneego")],
    }


@pytest.fixture
def written(tests, tmp_path):
    """The poses that a pipeline with SEEDED's settings would leave, and how far off each was made."""
    rng, offsets = np.random.default_rng(0), {}
    runs = {"pose": ["egopw"], "finetune": ["sceneego"]}
    for name in results.run_names(SEEDED):
        runs[f"ablate/{name}"] = ["sceneego"] if name == "sceneego_only" else ["egopw", "sceneego"]
    for folder, sets in runs.items():
        for data_set in sets:
            offsets[folder, data_set] = rng.uniform(0.02, 0.2)
            poses = [s.joints_3d + np.array([offsets[folder, data_set], 0, 0]) for s in tests[data_set]]
            save_poses(tmp_path / "artifacts" / folder / f"{data_set}.npz", poses)
    return offsets


def test_run_names():
    first = ["no_motion", "sceneego_only", "heatmap_mse", "baseline_nearest", "baseline_egotap"]
    assert results.run_names(SEEDED) == [*first, "full-3", "baseline_egotap-3"]
    assert results.run_names(replace(SEEDED, seeds=())) == first


def test_results_are_of_the_right_files(tests, written, tmp_path, settings):
    found = results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    assert list(found) == ["full", *results.run_names(SEEDED)]
    for (folder, data_set), offset in written.items():
        name = "full" if folder in ("pose", "finetune") else folder.removeprefix("ablate/")
        assert found[name][data_set].mpjpe.mean() == pytest.approx(offset * 1000, rel=1e-5)
    assert list(found["sceneego_only"]) == ["sceneego"]
    (tmp_path / "artifacts/ablate/no_motion/egopw.npz").unlink()
    (tmp_path / "artifacts/ablate/no_motion/sceneego.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no poses of the run 'no_motion'; run `dvc repro`"):
        results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    with pytest.raises(ValueError, match=r"sequences of \[5, 4\] frames, expected \[6\]"):
        load_poses(tmp_path / "artifacts/pose/egopw.npz", tests["sceneego"])


def test_tables(tests, written, tmp_path, settings):
    found = results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    rows = {"full": "full model", "no_motion": "without", "no_spatial": "never run", "sceneego_only": "one set"}
    rows |= {"rays": "not the paper's", "window_half": "of other lengths", results.ADAPTIVE: "of both"}
    table = results.compare(found, rows, paper.ABLATIONS | {"window_half": {}}, settings)
    # What was not run has a row for each of the paper's figures, or one.
    assert len(table) == 2 * 2 * 3 + 3 + 3 + 3
    assert [row["to fill the gap"] for row in table[-3:]] == [
        f"not run here: {names} in `ablation.rows`"
        for names in ("`rays`", "`window_half`", "`window_half` and `window_double`")
    ]
    # Rows that most profiles refuse name the one that has them.
    [elsewhere] = results.compare(found, {"rays_distances": ""}, {}, settings)
    assert elsewhere["to fill the gap"] == "not run here: `profile=distances` has it"
    assert {r["data set"] for r in table if r["row"] == "one set"} == {"SceneEgo"}
    by_key = {(r["row"], r["data set"], r["metric"]): r for r in table}
    for data_set, folder in (("egopw", "pose"), ("sceneego", "finetune")):
        title = TITLES[data_set]
        row = by_key["without", title, "MPJPE (mm)"]
        change = 1000 * (written["ablate/no_motion", data_set] - written[folder, data_set])
        assert row["ours, embedded data"] == round(1000 * written["ablate/no_motion", data_set], 1)
        assert float(row["change"]) == pytest.approx(change, abs=0.06)
        assert by_key["without", title, "PA-MPJPE (mm)"]["to fill the gap"] == paper.gap(settings, data_set)
        assert by_key["without", title, "BA-MPJPE (mm)"]["paper, real data"] == "–"
        # Both poses have the true one's bones, moved as a whole.
        assert by_key["without", title, "BA-MPJPE (mm)"]["ours, embedded data"] == 0
        missing = by_key["never run", title, "PA-MPJPE (mm)"]
        assert missing["ours, embedded data"] == ""
        assert missing["to fill the gap"] == "not run here: `no_spatial` in `ablation.rows`"
        assert missing["paper, real data"] == {"egopw": 78.8, "sceneego": 79.6}[data_set]
        # The full model was trained twice.
        both = np.mean([written[folder, data_set], written["ablate/full-3", data_set]])
        assert by_key["full model", title, "MPJPE (mm)"]["ours, embedded data"] == round(1000 * both, 1)
        assert results.trainings(found, "full", data_set, "mpjpe").shape == (2, len(found["full"][data_set].mpjpe))
        assert results.changes(found, "no_motion", data_set, "mpjpe").mean() == pytest.approx(change, abs=1e-3)
    assert by_key["full model", "EgoPW", "MPJPE (mm)"]["paper, real data"] == "–"

    # On as many passes as the full model had.
    longer = found | {"full_long": found["sceneego_only"] | found["full-3"], "no_motion_long": found["no_motion"]}
    rows = results.measured(longer)
    own, base = (longer[name]["egopw"].mpjpe.mean() for name in ("no_motion_long", "full_long"))
    assert rows["no_motion_long"]["egopw"]["change"]["mpjpe"]["mean"] == pytest.approx(own - base, abs=0.006)
    del longer["full_long"]
    assert "change" not in results.measured(longer)["no_motion_long"]["egopw"]
    assert {r["change"] for r in results.compare(longer, {"no_motion_long": ""}, {}, settings)} == {""}

    seeds = results.seed_table(found, SEEDED, 0)
    first = next(r for r in seeds if r["data set"] == "EgoPW" and r["metric"] == "MPJPE (mm)")
    values = [1000 * written["pose", "egopw"], 1000 * written["ablate/full-3", "egopw"]]
    assert [first["seed 0"], first["seed 3"]] == pytest.approx(values, abs=0.06)
    assert first["deviation"] == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2), abs=0.06)
    assert results.seed_table(found, replace(SEEDED, seeds=()), 0) == []
    real = results.compare(found, rows, paper.ABLATIONS, replace(settings, dataset=from_files(settings)))
    assert real[0].keys() >= {"ours, real data"} and not any("the real" in r["to fill the gap"] for r in real)


def test_methods_against_each_other(tests, written, tmp_path, settings, monkeypatch):
    """By the trainings that both have, of which the full model's and EgoTAP's have two, and "no_motion" one."""
    found = results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    pairs = (("full", "baseline_egotap"), ("no_motion", "baseline_egotap"), ("rays", "full"))
    monkeypatch.setattr(results, "PAIRS", pairs)
    two, one = results.pairs_table(found)  # "rays" was not run
    assert [two["trainings"], one["trainings"]] == [2, 1]
    for row, ends, folder in ((two, ("", "-3"), None), (one, ("",), "ablate/no_motion")):
        for data_set, title in (("egopw", "EgoPW"), ("sceneego", "SceneEgo")):
            first = {"egopw": "pose", "sceneego": "finetune"}[data_set]
            own = [folder or (first if not end else "ablate/full-3") for end in ends]
            apart = [
                written[a, data_set] - written[f"ablate/baseline_egotap{e}", data_set]
                for a, e in zip(own, ends, strict=True)
            ]
            told = float(row[f"{title}: MPJPE (mm)"].split()[0])
            assert told == pytest.approx(1000 * np.mean(apart), abs=0.06)
            assert row[f"{title}: PA-MPJPE (mm)"].startswith(("+0.0", "-0.0"))  # all were moved as a whole


def test_tables_name_runs_that_settings_can_ask_for(settings):
    """Every row is a run of the profile `full`, with the paper's label and figures at its own window lengths."""
    window = replace(settings.window, length=8, stride=4, step=8)
    made = results.tables(replace(settings, window=window))
    runs = {name for rows, _ in made.values() for name in rows}
    asked = replace(
        SEEDED,
        rows=typing.get_args(params.RowName),
        heatmap_losses=("mse", "scratch"),
        seeds=(),
        baselines=METHODS,
    )
    assert runs == {"full", results.ADAPTIVE, *results.run_names(asked)}
    labels, published = made["window"]
    assert labels.pop(results.ADAPTIVE)
    assert labels == {"window_half": "T = 32", "full": "T = 64", "window_double": "T = 128"}
    assert published["window_double"]["sceneego"] == (107.5, 77.0)
    assert made["loss"][1]["heatmap_mse"]["egopw"] == (None, 83.1)


def test_windows_by_what_is_seen(tests, written, tmp_path, settings):
    """Joint by joint: the shortest window of which half reaches back to where the heatmap last showed it."""
    window = replace(settings.window, length=2, step=2)
    asked = replace(SEEDED, rows=("window_half", "window_double"), seeds=())
    settings = replace(settings, window=window, ablation=asked)
    rng, shown, poses = np.random.default_rng(0), {}, {}
    for row, places in {
        "window_half": {},
        "full": {"egopw": "pose", "sceneego": "finetune"},
        "window_double": {},
    }.items():
        for name, group in tests.items():
            poses[row, name] = [rng.normal(0, 1, s.joints_3d.shape).astype(np.float32) for s in group]
            save_poses(tmp_path / "artifacts" / places.get(name, f"ablate/{row}") / f"{name}.npz", poses[row, name])
    assert "window_adaptive" not in results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    for s in (s for group in tests.values() for s in group):
        shown[s.key] = rng.uniform(size=(len(s), 15)) < 0.4
        maps = np.full((len(s), 15, 4, 4), 0.01, np.float16)
        maps[..., 1, 1] = np.where(shown[s.key], 0.31, 0.29)
        with new_hdf5(feature_file(tmp_path / "artifacts/features", s), 1) as file:
            file.attrs["content"], file["heatmaps"] = s.content, maps
    write_json(tmp_path / "artifacts/features/features.json", {"stored": True})
    found = results.load_results(tmp_path, settings, tests)["window_adaptive"]
    used = set()
    for name, group in tests.items():
        expected = []
        for number, s in enumerate(group):
            for frame, joint in np.ndindex(len(s), 15):
                row, age = "window_double", 0
                while age <= frame and not shown[s.key][frame - age, joint]:
                    age += 1
                if age <= 1:
                    row = "window_half"  # windows of 2 frames
                elif age <= 2:
                    row = "full"
                used.add(row)
                expected.append(np.linalg.norm(poses[row, name][number][frame, joint] - s.joints_3d[frame, joint]))
        np.testing.assert_allclose(found[name].distance.ravel(), 1000 * np.array(expected), rtol=1e-5)
    assert used == set(results.WINDOWS)


def test_methods_side_by_side(tests, written, tmp_path, settings):
    found = results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    rows = {row["method"]: row for row in results.methods_table(found, tmp_path, settings)}
    labels, _ = results.tables(settings)["others"]
    asked = {"full", *(f"baseline_{name}" for name in METHODS)}
    rays = "decoder of rays, this suite's"
    assert {rays, *(label for name, label in labels.items() if name in asked)} == set(rows)
    assert [row["method"] for row in rows.values() if row["frames seen"] != 1] == ["full model", rays]
    costs = [rows[name]["multiply-accumulates (M)"] for name in ("full model", rays)]
    assert float(costs[1]) < float(costs[0])
    assert all(len(row) == len(rows["full model"]) for row in rows.values())
    nearest = rows["nearest training pose"]
    error = 1000 * written["ablate/baseline_nearest", "egopw"]
    # Everybody is off by as much, so that the interval is a point.
    assert nearest["ours, embedded data, EgoPW: MPJPE (mm)"] == f"{error:.1f} ({error:.1f} to {error:.1f})"
    assert nearest["parameters (M)"] == nearest["source"] == "–"
    diffusion = rows["EgoHMR-style diffusion, mean of samples"]
    assert (
        diffusion["ours, embedded data, EgoPW: MPJPE (mm)"] == "–"
        and diffusion["published, real EgoPW: PA-MPJPE (mm)"] == 85.8
    )
    refined = rows["EgoPoseFormer-style refinement"]
    assert refined["published, real SceneEgo: MPJPE (mm)"] == 93.0 and "ECCV 2024" in refined["source"]
    voxels = rows["SceneEgo-style voxels, depth estimated"]
    assert voxels["published, real SceneEgo: MPJPE (mm)"] == 118.5
    assert [rows[name]["trainings"] for name in ("full model", rays, "EgoTAP-style propagation")] == [2, 0, 2]
    # Of both its trainings.
    both = np.mean([written[f"ablate/baseline_egotap{end}", "egopw"] for end in ("", "-3")])
    assert rows["EgoTAP-style propagation"]["ours, embedded data, EgoPW: MPJPE (mm)"].startswith(f"{1000 * both:.1f} (")
    sizes = {"view (px)": settings.prepare.size, "frames a call": settings.window.length}
    speeds = {"settings": sizes, "rows": [{"method": "baseline_nearest", "frames a second": 456.7}]}
    write_json(tmp_path / f"benchmarks/results/methods-{settings.run.profile}.json", speeds)
    facts = {"parameters": 1_234_567, "macs": 8_900_000, "egopw": {"samples": 8, "best_of_k_pa_mpjpe_mm": 61.25}}
    (tmp_path / "artifacts/ablate/baseline_nearest/method.json").write_text(json.dumps(facts))
    nearest = next(row for row in results.methods_table(found, tmp_path, settings) if "nearest" in row["method"])
    assert (nearest["parameters (M)"], nearest["multiply-accumulates (M)"]) == ("1.23", "8.9")
    assert nearest["frames a second"] == "457"
    larger = replace(settings, prepare=replace(settings.prepare, size=settings.prepare.size * 2))
    rows = results.methods_table(found, tmp_path, larger)
    assert {row["frames a second"] for row in rows} == {"–"}
    short = results_page.in_short([nearest], "embedded data")[0]
    assert short["EgoPW, MPJPE"] == nearest["ours, embedded data, EgoPW: MPJPE (mm)"] and short["MAC (M)"] == "8.9"
    assert short["published, real data"] == "– / – / – / –"
    assert nearest["EgoPW: PA-MPJPE of the sample that an oracle picks (mm)"].endswith(" of 8")
    assert nearest["SceneEgo: PA-MPJPE of the sample that an oracle picks (mm)"] == "–"


def test_verdict_needs_an_interval_without_zero():
    lengths = [10] * 8
    noise = np.random.default_rng(0).normal(0, 1, 80)
    assert results.verdict(noise + 5, lengths) == "worse" and results.verdict(noise - 5, lengths) == "better"
    noise -= noise.mean()
    assert results.verdict(noise + 5, [80]) == "no interval with one test person"
    assert results.verdict(noise + 5, lengths, ["one"] * 8) == "no interval with one test person"
    low, high = bootstrap_interval(noise, lengths)
    assert low < 0 < high and results.verdict(noise, lengths) == "no clear difference"


def test_telling_frames(tests):
    sequences = tests["egopw"]
    sequences[1].in_image = np.arange(4)[:, None] != np.full((1, 15), 2)
    truth = [s.joints_3d for s in sequences]
    off = np.array([3.0, 1, 5, 4, 2, 9, 6, 0.5, 7])
    moved = np.split(np.concatenate(truth) + off[:, None, None] / 100 * [1, 0, 0], [5])
    frames = results.telling_frames(pose_errors(moved, truth), sequences)
    assert frames == {"best": 7, "median": 3, "worst": 5, "most out of view": 7}
    for sequence in sequences:
        sequence.in_image = np.ones((len(sequence), 15), bool)
    assert results.telling_frames(pose_errors(moved, truth), sequences) == {"best": 7, "median": 3, "worst": 5}
    assert [results.frame_at(sequences, n) for n in (0, 4, 5, 8)] == [(0, 0), (0, 4), (1, 0), (1, 3)]


def test_papers_figures_agree_with_each_other():
    """The full model stands in five tables."""
    for table in (paper.ABLATIONS["full"], paper.LOSSES["bce"], paper.WINDOWS[64]):
        assert table == paper.RESULTS == {"egopw": (None, 76.7), "sceneego": (104.0, 76.2)}
    json.dumps([paper.ABLATIONS, paper.LOSSES, paper.METHODS])


@pytest.fixture
def as_the_paper(raw_settings, project):
    """The paper profile on the real data sets, as its files have them."""
    read = {name: yaml.safe_load((project / f"conf/{name}.yaml").read_text()) for name in PAPER_ON_REAL_DATA}
    raw = raw_settings | read["profile/paper"] | {"dataset": read["dataset/egopw"]}
    return params.from_dict(raw)


def test_what_is_lacking_is_told_by_the_settings(as_the_paper, settings):
    """Nothing on real data as the paper has it; else each thing by its own name, and the data only where rendered."""
    s = as_the_paper
    assert paper.gap(s, "egopw") == paper.gap(s, "sceneego") == ""
    assert paper.gap(replace(s, dataset=replace(s.dataset, source="synthetic")), "egopw") == "the real EgoPW data"
    cases = {
        "Ego4D weights": {"motion": {"checkpoint": None}},
        "ImageNet weights": {"visual": {"init": "scratch"}},
        "ImageNet weights, unless resnet.pth holds them": {"visual": {"init": "weights/resnet.pth"}},
        "frames of 256 px": {"prepare": {"size": 128}},
        "ResNet-50": {"visual": {"backbone": "resnet18"}},
        "windows of 64 frames in a row": {"window": {"step": 2}},
        "the paper's decoder": {"decoder": {"memory_joint_embedding": True}},
        "the paper's losses": {"loss": {"lambda_pos": 5.0}},
        "the paper's pose training": {"finetune": {"epochs": 1}},
    }
    for text, changes in cases.items():
        changed = {section: replace(getattr(s, section), **values) for section, values in changes.items()}
        assert paper.gap(replace(s, **changed), "egopw") == text
    # What says nothing of the method: seeds, workers, room.
    assert paper.gap(replace(s, seed=3, engine=replace(s.engine, workers=1)), "egopw") == ""
    told = paper.gap(settings, "sceneego")
    assert told.startswith("the real SceneEgo data; ImageNet weights; Ego4D weights; ")
    assert "weights" in paper.gap(replace(settings, dataset=from_files(settings)), "sceneego")


def test_what_others_published_stands_apart():
    """Each figure with its venue, and none in the tables that hold the paper's or ours."""
    rows = {row["method"]: row for row in paper.elsewhere()}
    assert rows["EgoPoseFormer"]["MPJPE (mm)"] == 93.0 and rows["EgoPoseFormer"]["published"] == "ECCV 2024"
    assert (rows["EgoWholeMocap"]["MPJPE (mm)"], rows["EgoWholeMocap, refined"]["MPJPE (mm)"]) == (64.2, 57.6)
    assert (rows["SceneEgo"]["MPJPE (mm)"], rows["SceneEgo"]["PA-MPJPE (mm)"]) == (118.5, 92.7)
    assert rows["AG-EgoPose"]["MPJPE (mm)"] == 104.0 and "paper" in rows["AG-EgoPose"]["published"]
    # SceneEgo's are in the paper's Table 2 too.
    others = {row["MPJPE (mm)"] for name, row in rows.items() if name not in ("AG-EgoPose", "SceneEgo")}
    assert paper.METHODS["sceneego"]["sceneego"] == (118.5, 92.7)
    told = json.dumps([paper.RESULTS, paper.ABLATIONS, paper.LOSSES, paper.METHODS])
    assert not [figure for figure in others if str(figure) in told]
    assert not [row for row in rows.values() if {"ours", "embedded data", "real data"} & set(row)]


@pytest.mark.parametrize("source", ["synthetic", "files"])
def test_the_data_and_their_calibrations_are_named(settings, tmp_path, source):
    splits = {"splits": {}, "calibration": {"file": "a.json", "sha256": "0123456789abcdef"}}
    (tmp_path / "egopw").mkdir()
    (tmp_path / "egopw/splits.json").write_text(json.dumps(splits))
    here = replace(settings, dataset=replace(settings.dataset, source=source))
    first, *lines = measured_on(here, tmp_path)
    assert data_name(here) == {"synthetic": "embedded data", "files": "real data"}[source]
    assert first.startswith(data_name(here))
    like = "-like" if source == "synthetic" else ""
    assert lines[0] == f"EgoPW{like}: calibration a.json, sha256 0123456789abcdef"
    assert lines[1].startswith(f"SceneEgo{like}: calibration unknown: ") and "sceneego/splits.json" in lines[1]


def test_results_page_has_all_measures_and_the_papers_apart(settings):
    numbers = {f"{name}_mm": 10.0 * i for i, name in enumerate(("mpjpe", "pa_mpjpe", "ba_mpjpe"), 1)}
    intervals = {name: {"low": value - 1, "high": value + 1} for name, value in numbers.items()}
    entry = {**numbers, "interval_95": intervals, "mean_pose": {name: 2 * value for name, value in numbers.items()}}
    real = replace(settings, dataset=from_files(settings))
    rows = results_page.protocol(dict.fromkeys(("egopw", "transfer", "sceneego"), entry), real)
    assert [row["ours, real data"] for row in rows[:3]] == [f"{v}.0 ({v - 1}.0 to {v + 1}.0)" for v in (10, 20, 30)]
    assert [row["paper, real data"] for row in rows] == ["–", 76.7, "–", "–", "–", "–", 104.0, 76.2, "–"]
    assert [bool(row["to fill the gap"]) for row in rows] == [row["paper, real data"] != "–" for row in rows]
    assert not any("the real" in row["to fill the gap"] for row in rows)
    assert results_page.markdown(rows).count("\n") == len(rows) + 2


def test_measured_against_the_errors(tests, written, tmp_path, settings):
    path = tmp_path / "artifacts/ablate/full-3/egopw.npz"
    to_and_fro = [
        p + 0.001 * (-1.0) ** np.arange(len(p))[:, None, None] * [0, 1, 0] for p in load_poses(path, tests["egopw"])
    ]
    save_poses(path, to_and_fro)
    found = results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    told = results.measured(found)
    assert set(told) == {"full", "no_motion", "sceneego_only", "heatmap_mse", "baseline_nearest", "baseline_egotap"}
    assert [told[name]["sceneego"]["trainings"] for name in ("full", "no_motion")] == [2, 1]
    assert "change" not in told["full"]["sceneego"] and set(told["sceneego_only"]) == {"sceneego"}
    entry, joints = told["no_motion"]["egopw"], found["no_motion"]["egopw"].distance
    assert entry["lower_mm"] == pytest.approx(joints[:, 7:].mean(), abs=0.006)
    # One of two trainings goes to and fro by a millimetre: its second difference is 4.
    steady, trembling = found["full"]["egopw"], found["full-3"]["egopw"]
    assert told["full"]["egopw"]["acceleration_mm"] == pytest.approx(2, abs=0.006)
    assert (steady.whole["acceleration_mm"], trembling.whole["acceleration_mm"]) == pytest.approx((0, 4), abs=0.01)
    assert entry["lower_less_upper_mm"] == pytest.approx(joints[:, 7:].mean() - joints[:, :7].mean(), abs=0.006)
    change = entry["change"]["mpjpe"]
    assert change["mean"] == pytest.approx(joints.mean() - found["full"]["egopw"].distance.mean(), abs=0.006)
    assert "long_unseen_mm" not in entry  # the data do not say what is hidden
    for sequences in tests.values():
        for sequence in sequences:
            sequence.hidden = np.zeros((len(sequence), 15), bool)
    numbers = np.array([0, 1, 2, 43, 44])
    tests["egopw"][0].frame_numbers, tests["egopw"][0].hidden[1:, 3] = numbers, True
    found = results.load_results(tmp_path, replace(settings, ablation=SEEDED), tests)
    late = found["no_motion"]["egopw"].distance[3:5, 3]
    told, joints = results.measured(found)["no_motion"]["egopw"], found["no_motion"]["egopw"].distance
    assert told["long_unseen_mm"] == told["unseen_mm"]["longer"] == pytest.approx(late.mean(), abs=0.006)
    assert told["unseen_mm"]["up to 8 frames"] == pytest.approx(joints[1:3, 3].mean(), abs=0.006)
    assert told["unseen_mm"]["in sight"] == pytest.approx(
        np.concatenate([np.delete(joints, 3, axis=1).ravel(), joints[[0, 5, 6, 7, 8], 3]]).mean(), abs=0.006
    )
    assert set(told["unseen_mm"]) == {"in sight", "up to 8 frames", "longer"}  # no joint for 9 to 32
    apart = joints[1:3, 3] - found["full"]["egopw"].distance[1:3, 3]
    assert told["unseen_change"]["up to 8 frames"]["mean"] == pytest.approx(apart.mean(), abs=0.006)
    assert told["unseen_change"]["longer"] == told["change"]["long_unseen"]
    both = [found[name]["egopw"].distance[3:5, 3].mean() for name in ("full", "full-3")]
    assert results.measured(found)["full"]["egopw"]["unseen_mm"]["longer"] == pytest.approx(np.mean(both), abs=0.006)
    # Every joint of a run is off by the same, and so is every person.
    assert change["low"] == change["mean"] == change["high"]


def test_claims_are_judged_by_their_intervals():
    worse, better, either = ({"low": low, "high": high} for low, high in ((1, 4), (-4, -1), (-1, 4)))
    for changes, said in (
        ([worse], "confirmed here"), ([better], "refuted here"), ([either], "undecided here"),
        ([worse, worse], "confirmed here"), ([worse, either], "undecided here"), ([worse, better], "refuted here"),
    ):  # fmt: skip
        assert page.verdict(changes, 3, either) == said
    assert page.verdict([worse], 1, either) == "undecided here: one training"
    assert page.verdict([better], 3, better) == "undecided here: the full model was still learning"
    assert page.verdict([better], 3, None) == "undecided here: too few trainings on more passes"
    assert page.verdict([worse], 3, better) == "confirmed here"
    # Other windows are other numbers of frames learned from: either way only what has stopped learning decides.
    assert page.verdict([worse], 3, better, True) == "undecided here: the full model was still learning"
    assert page.verdict([worse], 3, either, True) == "confirmed here"
    assert page.verdict([better], 3, either, True) == "refuted here"
    assert page.verdict([worse], 3, None, True) == "undecided here: too few trainings on more passes"
    # Every measure is one that the metrics have, every row one that can be asked for.
    assert {measure for *_, measures in page.CLAIMS for measure in measures} <= set(results.MEASURES)
    assert {row for _, row, _ in page.CLAIMS} <= {*ABLATIONS, *CHANGES, *LOSSES, "sceneego_only"}

    def entry(mean):
        change = {m: {"mean": mean, "low": mean - 1, "high": mean + 1} for m in results.MEASURES}
        return {data_set: {"trainings": 3, "change": change} for data_set in ("egopw", "sceneego")}

    full = {data_set: {"trainings": 3} for data_set in ("egopw", "sceneego")}
    runs = {"full": full, "no_motion": entry(5.0), "no_spatial": entry(-5.0), "sceneego_only": entry(5.0)}
    rows = page.table(runs, "embedded data")
    by_key = {(row["claim"].split(" (")[0], row["tested on"]): row for row in rows}
    motion = by_key["Motion features help", "EgoPW"]
    assert motion["verdict"] == "confirmed here" and motion["its 95 % interval"] == "+4.0 to +6.0"
    # The paper, Table 4: 90.8 without, 76.7 with.
    assert motion["without it, paper, real data (mm)"] == "+14.1"
    # Nobody tried more passes.
    unknown = "undecided here: too few trainings on more passes"
    assert by_key["Heatmap features help", "SceneEgo"]["verdict"] == unknown
    # One set has fewer frames than both.
    assert by_key["Training on EgoPW first helps on SceneEgo", "SceneEgo"]["verdict"] == unknown
    assert by_key["Cross-attention helps", "EgoPW"]["verdict"] == "not run here"
    # The row on more passes decides, where it and the full model had them twice.
    for times, row, said in ((3, "no_spatial_long", "confirmed here"), (1, "no_spatial", unknown)):
        found = {"full": full, "no_spatial": entry(-5.0), "no_spatial_long": entry(2.0), "full_long": entry(0.0)}
        found["full_long"] = {n: e | {"trainings": times} for n, e in found["full_long"].items()}
        judged = [r for r in page.table(found, "embedded data") if r["claim"].startswith("Heatmap features")]
        assert [(r["row"], r["verdict"]) for r in judged] == [(row, said)] * 2
    found = {"full": full, "no_spatial_long": entry(-2.0), "full_long": entry(-5.0)}
    # What more passes still would change, nobody looked at; or somebody did.
    assert {r["verdict"] for r in page.table(found, "embedded data")} == {"not run here", unknown}
    for more, said in ((-5.0, "undecided here: the full model was still learning"), (0.5, "refuted here")):
        found["full_longer"] = entry(more)
        assert {r["verdict"] for r in page.table(found, "embedded data")} == {"not run here", said}
    # One training that falls no further says nothing of the next.
    found["full_longer"] = {n: e | {"trainings": 1} for n, e in entry(0.5).items()}
    assert {r["verdict"] for r in page.table(found, "embedded data")} == {"not run here", unknown}
    # The decoder of rays is its own measure, of which nobody knows whether it still learns.
    found = {"full": full, "rays": entry(-20.0), "rays_one_frame": entry(3.0), "full_long": entry(0.5)}
    for mean, said in ((3.0, "confirmed here"), (-3.0, unknown)):
        found["rays_one_frame"] = entry(mean)
        assert {r["verdict"] for r in page.table(found, "embedded data")} == {"not run here", said}
    found |= {"rays_long": entry(-30.0), "rays_one_frame_long": entry(0.0)}
    asked = [r for r in page.table(found, "embedded data") if r["row"] == "rays_one_frame_long"]
    assert [r["verdict"] for r in asked] == ["undecided here"] * 2
    for more, said in ((-5.0, "undecided here: the full model was still learning"), (0.5, "refuted here")):
        found = {"full": full, "no_spatial": entry(-5.0), "full_long": entry(more)}
        by_key = {(row["claim"].split(" (")[0], row["tested on"]): row for row in page.table(found, "embedded data")}
        assert by_key["Heatmap features help", "SceneEgo"]["verdict"] == said
    assert page.markdown(rows).count("\n") == len(rows) + 2
    whole = {"mpjpe_mm": 150.0, "pa_mpjpe_mm": 100.0, "long_unseen_mm": 120.0}
    rows = {row: {"egopw": entry(5.0)["egopw"] | whole} for row in ("full", "no_motion")}
    assert "change of MPJPE" in page.errors(rows, claims=False)[0]
    errors = page.errors(rows, claims=True)
    assert [(e["row"], e["tested on"], e["PA-MPJPE"]) for e in errors] == [
        ("full", "EgoPW", 100.0), ("no_motion", "EgoPW", 100.0)
    ]  # fmt: skip
    assert errors[1]["and its change"] == "+5.0 (+4.0 to +6.0)"
    rows["no_motion"]["egopw"]["unseen_mm"] = {"in sight": 90.0, "longer": 120.0}
    rows["no_motion"]["egopw"]["unseen_change"] = {"longer": {"mean": 4.0, "low": -1.0, "high": 9.0}}
    assert page.by_unseen(rows) == [
        {"row": "no_motion", "tested on": "EgoPW", "in sight": "90.0", "longer": "120.0 (+4.0; -1.0 to +9.0)"}
    ]


def working_copy(root, settings, runs):
    """What a working copy has after these runs, beside the poses."""
    (root / "params.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asdict(settings)))))
    machine = {"cores": 2, "cpu": f"processor of {root.name}", "gpu": []}
    run = {
        "machine": machine,
        "versions": {"torch": "2"},
        "code": {"commit": "0123456789", "dirty": {"params.yaml": "f"}},
    }
    for name in runs:
        write_json(root / f"metrics/{name}.run.json", run)
        report = {"pose": "03_pose_training", "finetune": "03_pose_finetuning"}.get(name)
        report = report or name.removeprefix("ablate/").replace("no_", "ablate_no_").replace("full", "ablate_full")
        write_json(root / f"reports/{report}.ipynb", {"metadata": {"papermill": {"duration": 1800.0}}})
    write_json(root / "metrics/evaluation.json", {"egopw": 1})
    write_json(root / "metrics/evaluation.run.json", run)


def test_the_study_grows_from_several_working_copies(tests, written, tmp_path, settings):
    settings = replace(settings, run=replace(settings.run, profile="study"), ablation=SEEDED)
    whole = results.measured(results.load_results(tmp_path, settings, tests))
    rows = ("full-3", "no_motion", "baseline_nearest")
    working_copy(tmp_path, settings, ["pose", "finetune", "ablate/full-3"])
    (tmp_path / "artifacts/ablate/baseline_nearest/method.json").write_text('{"parameters": 5}')
    study = results_page.Study(tmp_path)
    study.add(tests)
    study.write()
    assert set(study.results) == {"full", "full-3"}  # what else lies there has not ended
    # Another copy, which has trained the other rows.
    (tmp_path / "metrics/pose.run.json").unlink()
    (tmp_path / "metrics/ablate/full-3.run.json").unlink()
    working_copy(tmp_path, settings, ["ablate/no_motion", "ablate/baseline_nearest"])
    study = results_page.Study(tmp_path)
    study.add(tests)
    study.write()
    study = results_page.Study(tmp_path)
    assert set(study.results) == {"full", *rows} and study.facts == {"baseline_nearest": {"parameters": 5}}
    assert study.evaluation == {"egopw": 1}
    assert "4 trainings took 2.5 hours" in study.told() and "processor of" in study.told()
    # The same numbers as from all poses.
    told = results.measured(study.results)
    assert set(told) == {"full", "no_motion", "baseline_nearest"}
    for name, sets in told.items():
        for data_set, entry in sets.items():
            expected = whole[name][data_set]
            assert entry["trainings"] == expected["trainings"]
            for measure, values in expected.pop("change", {}).items():
                assert entry["change"][measure] == pytest.approx(values, abs=0.02)
            entry.pop("change", None)
            assert entry == pytest.approx(expected, abs=0.02)
    for sets in study.results.values():
        for errors in sets.values():
            errors.means["pa_mpjpe"] = errors.means["mpjpe"]  # these poses, moved as a whole, have none
    still = {"mpjpe_mm": 300.0, "pa_mpjpe_mm": 130.0, "acceleration_mm": 15.339}
    study.evaluation = {key: {"mean_pose": still} for key in ("egopw", "sceneego")}
    full, without, mean = results_page.parts_in_short(study, "embedded data")
    assert full.keys() == without.keys() == mean.keys() and mean["SceneEgo: acceleration"] == "15.34"
    assert [full["trainings"], full["minutes of each"], without["minutes of each"]] == [2, "45", "30"]
    # Beside the full model's training of the same seed, as the interval is; not beside the mean of its two.
    same = study.results["full"]["egopw"]
    ours, base = whole["no_motion"]["egopw"]["mpjpe_mm"], np.average(same.means["mpjpe"], weights=same.counts["mpjpe"])
    assert abs(base - whole["full"]["egopw"]["mpjpe_mm"]) > 1
    assert without["EgoPW, embedded data: MPJPE"] == f"{ours:.1f} ({100 * (ours - base) / base:+.0f}%)"
    lines = (tmp_path / "docs/study.json").read_text().splitlines()
    assert sum(line.startswith('    "') for line in lines) == 4
    # Of one that was ended and went on, nobody knows the time.
    report = {"metadata": {"papermill": {"duration": 60.0}}, "cells": [{"outputs": [{"text": ["epoch 1\n"]}]}]}
    assert results_page.seconds_of([report, report]) == 120
    report["cells"][0]["outputs"].append({"text": ["no_motion egopw: goes on after step 3 of 9\n"]})
    write_json(tmp_path / "reports/ablate_no_motion.ipynb", report)
    study.add(tests)
    assert "3 trainings took 2.0 hours" in study.told() and "(1 more were ended" in study.told()
    assert results_page.parts_in_short(study, "embedded data")[1]["minutes of each"] == "–"
    # Trainings of people whose cameras sat elsewhere do not stand beside these; the pages can still be written.
    study.mounts["egopw"][1][2] += 0.04
    study.write()
    with pytest.raises(results_page.PageError, match="its trainings saw other camera mounts"):
        results_page.Study(tmp_path).add(tests)
    for name in ("ablate/no_motion", "ablate/baseline_nearest", "finetune"):
        (tmp_path / f"metrics/{name}.run.json").unlink()
    results_page.Study(tmp_path).add(tests)
    working_copy(tmp_path, replace(settings, seed=5), [])
    with pytest.raises(results_page.PageError, match="other settings of seed than params"):
        results_page.Study(tmp_path)
    working_copy(tmp_path, replace(settings, run=replace(settings.run, profile="quick")), [])
    with pytest.raises(results_page.PageError, match="profile is 'quick', expected 'study'"):
        results_page.Study(tmp_path)


def test_the_full_models_cost_is_that_of_a_real_window(settings):
    model = untrained_model(settings).eval()
    size, length = settings.prepare.size, settings.window.length
    window = {name: value[None] for name, value in model.frozen_features(torch.zeros(length, 3, size, size)).items()}
    expected = cost(model.own_parameters(), lambda: model.forward_features(**window), length)
    assert full_cost(settings) == expected and expected["macs"] > 0


# --- Table 3 -------------------------------------------------------------------------------------------------------


def by_hooks(model, call, frames):
    """Multiply-accumulates a frame of convolutions and linear layers, from the shapes that pass them."""
    total, handles = [0], []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            total[0] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total[0] += output.numel() * module.in_features

    for module in model.modules():
        handles.append(module.register_forward_hook(count))
    call()
    for handle in handles:
        handle.remove()
    return total[0] / frames


def test_complexity_against_hooks():
    rows = {row["part"].split(" (")[0]: row for row in complexity(size=64, frames=2, backbone="resnet18")}
    model = AGEgoPose(frame_encoder=FrameEncoder("resnet18")).eval()
    images = torch.zeros(2, 3, 64, 64)
    with torch.no_grad():
        references = {
            "heatmap network": by_hooks(model.heatmap_net, lambda: model.heatmap_net(images), 2),
            "heatmap embedding": by_hooks(model.embedding, lambda: model.embedding(torch.zeros(1, 2, 15, 16, 16)), 2),
            "frame encoder": by_hooks(model.frame_encoder, lambda: model.frame_encoder(images[None]), 2),
        }
    for part, mac in references.items():
        assert rows[part]["mac"] == pytest.approx(mac, rel=1e-6), part
    # Eight blocks of 12 C^2 weights at each frame, and attention over two frames: 2 T C a frame and block.
    assert rows["motion encoder"]["mac"] == pytest.approx(8 * (12 * 384**2 + 2 * 2 * 384), rel=2e-3)
    parts = [row for name, row in rows.items() if name != "sum"]
    for key in ("parameters", "trained", "frozen", "mac"):
        assert rows["sum"][key] == sum(row[key] for row in parts)
    assert rows["sum"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert rows["sum"]["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_complexity_at_the_papers_sizes_is_known_of_its_backbones():
    """ResNet-50 takes 4.09 GMAC at 224 px in torchvision's own table: 5.34 at 256 px."""
    rows = complexity()
    frame = next(row for row in rows if row["part"].startswith("frame encoder"))
    assert frame["mac"] / 1e9 == pytest.approx(4.09 * (256 / 224) ** 2, rel=0.01)
