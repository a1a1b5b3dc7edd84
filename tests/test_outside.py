"""EgoPW's view from outside and what is made of it: the camera against OpenCV, its errors against the published ones,
the body's own shadow against rays through its mesh, pseudo labels against the truth that they never read."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import CAMERA, SOURCES

from agego_data import outside, synthetic
from agego_lib.baselines import Domains, check_outside, pseudo_labels
from agego_lib.baselines.egopw import EgoPW
from agego_lib.baselines.labels import _Observed, camera_places, camera_turns
from agego_lib.camera import InputView
from agego_lib.datasets import DatasetError, PreparedSequence, read_egopw, write_prepared
from agego_lib.datasets.sequence import OutsideView
from agego_lib.metrics import pa_mpjpe
from agego_lib.params import DataSetSettings
from agego_lib.preflight import checks

pytestmark = pytest.mark.usefixtures("one_thread")
ROOM = (-3.0, 3.0, -3.0, 3.0)


@pytest.fixture(scope="module")
def takes(people, clips):
    """Four takes of 60 frames, and their joints in the world."""
    made = [synthetic.make_take(people[i], clips, "egopw", np.random.default_rng(i), 60) for i in range(4)]
    return [(take, people[i].joints(take.starts)) for i, take in enumerate(made)]


def pixels_of(joints, turn, place, intrinsics):
    """OpenCV's projection of joints (N, 3)."""
    rotation, _ = cv2.Rodrigues(turn.T)
    found, _ = cv2.projectPoints(joints.astype(float), rotation, -turn.T @ place, intrinsics.astype(float), None)
    return found[:, 0]


def test_the_camera_stands_level_in_the_room_and_sees_the_wearer(takes):
    for number, (_, joints) in enumerate(takes):
        bounds = (
            *(joints[..., 0].min() - 2, joints[..., 0].max() + 2),
            *(joints[..., 1].min() - 2, joints[..., 1].max() + 2),
        )
        turn, place, intrinsics = outside.place_camera(np.random.default_rng(number), joints, bounds)
        np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1) and turn[2, 0] == pytest.approx(0) and turn[2, 1] < 0
        assert bounds[0] < place[0] < bounds[1] and bounds[2] < place[1] < bounds[3]
        pixels, depth = outside.project(joints, turn, place, intrinsics)
        np.testing.assert_allclose(pixels[7], pixels_of(joints[7], turn, place, intrinsics), atol=1e-6)
        assert outside.in_picture(pixels, depth).mean() > 0.9


def test_errors_are_as_large_as_published_and_limbs_are_swapped_now_and_then(people):
    """A person that turns on the spot for a minute and a half: RMS errors over the root of half the box's area."""
    body, frames = people[3], 3000
    rest = np.zeros((1, len(body.bone_names), 4))
    rest[..., 0] = 1
    starts, _ = body.pose(np.array([[0.0, 0, 1]]), rest)
    angle = np.linspace(0, 12 * np.pi, frames)
    turns = np.moveaxis(np.array([[np.cos(angle), -np.sin(angle), 0 * angle], [np.sin(angle), np.cos(angle), 0 * angle],
                                  [0 * angle, 0 * angle, 1 + 0 * angle]]), -1, 0)  # fmt: skip
    joints = np.einsum("tij,nj->tni", turns, body.joints(starts)[0])
    arrays, turn, place = outside.outside_view(np.random.default_rng(5), joints, ROOM, 30)
    truth = pixels_of(joints.reshape(-1, 3), turn, place, arrays["intrinsics"]).reshape(frames, 15, 2)
    found, hidden = np.isfinite(arrays["joints_2d"]).all(-1), outside.behind_the_body(joints, place)
    np.testing.assert_array_equal(found, arrays["confidence"] > 0)
    assert arrays["confidence"][found & ~hidden].mean() > arrays["confidence"][found & hidden].mean() + 0.2
    assert (~found)[~hidden].mean() == pytest.approx(0.01, abs=0.004)
    assert (~found)[hidden].mean() == pytest.approx(0.15, abs=0.03)
    scale = np.sqrt(0.5 * np.ptp(truth, axis=1).prod(-1))[:, None]
    arms = truth.copy()
    arms[:, [1, 2, 3, 4, 5, 6]] = truth[:, [4, 5, 6, 1, 2, 3]]
    away = [np.nansum(np.linalg.norm(arrays["joints_2d"] - t, axis=-1)[:, 1:7], axis=1) for t in (truth, arms)]
    # From the side left and right look alike: frames in which they are apart tell.
    apart = np.linalg.norm(truth[:, 1] - truth[:, 4], axis=-1) > 0.4 * scale[:, 0]
    swapped = away[1] < away[0]
    assert 0.005 < swapped[apart].mean() < 0.06
    off = np.linalg.norm(arrays["joints_2d"] - truth, axis=-1) / scale
    for joint, published in ((0, 0.079), (2, 0.072), (3, 0.062), (8, 0.087), (9, 0.089)):
        known = found[:, joint] & ~hidden[:, joint] & (off[:, joint] < 5 * published)
        assert np.sqrt((off[known, joint] ** 2).mean()) == pytest.approx(0.75 * published, rel=0.2), joint


def surface(vertices, faces, origin, ray):
    """Distance along a unit ray to the nearest triangle (Moeller and Trumbore), or infinity."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    p = np.cross(ray, c - a)
    det = ((b - a) * p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = ((origin - a) * p).sum(1) / det
        q = np.cross(origin - a, b - a)
        v, t = (q @ ray) / det, ((c - a) * q).sum(1) / det
    hit = (np.abs(det) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return t[hit].min() if hit.any() else np.inf


def test_sticks_hide_what_the_mesh_hides(takes, people):
    agreed, hidden = [], 0
    for number, (take, joints) in enumerate(takes):
        for i in range(0, 60, 15):
            centre, angle = joints[i].mean(0), 1.3 * i + number
            place = centre + 3 * np.array([np.cos(angle), np.sin(angle), 0.1])
            vertices = people[number].skin(take.starts[i], take.turns[i])
            for joint, said in zip(joints[i], outside.behind_the_body(joints[i : i + 1], place)[0], strict=True):
                far = np.linalg.norm(joint - place)
                gap = far - surface(vertices, people[number].faces, place, (joint - place) / far)
                agreed.append(said == (gap > 0.2))
                hidden += gap > 0.2
    assert hidden > 15 and np.mean(agreed) > 0.85, (hidden, np.mean(agreed))


COUNTS = {"egopw_train": (1, 1), "egopw_test": (1, 1), "sceneego_train": (1, 1), "sceneego_test": (1, 1)}


@pytest.fixture(scope="module")
def rendered(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("raw")
    synthetic.render_datasets(SOURCES, out, scale=0.15, frames_per_sequence=3, **COUNTS)
    return out


def test_training_sequences_of_egopw_alone_have_it_and_nothing_else_changes(rendered, tmp_path, monkeypatch):
    (found,) = rendered.rglob("outside.npz")
    assert found.relative_to(rendered).parts[0] == "egopw"
    assert f"{found.parent.parent.name}/{found.parent.name}" in (rendered / "egopw/train_egopw.txt").read_text()
    with np.load(found) as file:
        arrays = {key: file[key] for key in file.files}
    assert arrays["joints_2d"].shape == (3, 15, 2) and arrays["confidence"].shape == (3, 15)
    monkeypatch.setattr(synthetic, "outside_view", lambda rng, *rest: (rng.random(9), {"confidence": np.zeros(3)})[1:])
    synthetic.render_datasets(SOURCES, tmp_path, scale=0.15, frames_per_sequence=3, **COUNTS)
    digests = [
        {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}
        for root in (rendered, tmp_path)
    ]
    changed = {name for name in digests[0] if digests[0][name] != digests[1].get(name)}
    assert changed == {str(found.relative_to(rendered))} and digests[0].keys() == digests[1].keys()


def test_prepared_sequences_carry_it(rendered, tmp_path):
    folder = next(rendered.rglob("outside.npz")).parent
    sequence = read_egopw(folder)
    with np.load(folder / "outside.npz") as file:
        rows = [file["frame_names"].tolist().index(name) for name in sequence.frame_names]
        expected = [file["joints_2d"][rows], file["confidence"][rows], file["intrinsics"]]
    camera = replace(CAMERA, size=(192, 154))
    written = write_prepared(tmp_path / "a.h5", sequence, camera, InputView((192, 154), 32))
    found = PreparedSequence(tmp_path / "a.h5").outside
    assert written["frames"] == 3
    for value, want in zip((found.joints_2d, found.confidence, found.intrinsics), expected, strict=True):
        np.testing.assert_array_equal(value, want)
    sequence.outside = None
    write_prepared(tmp_path / "b.h5", sequence, camera, InputView((192, 154), 32))
    assert PreparedSequence(tmp_path / "b.h5").outside is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"joints_2d": None}, "no joints_2d"),
        ({"joints_2d": np.zeros((3, 14, 2))}, r"'joints_2d' is float64 of shape \(3, 14, 2\)"),
        ({"confidence": np.full((3, 15), 1.5)}, "'confidence' outside 0 to 1"),
        ({"confidence": np.full((3, 15), np.nan)}, "'confidence' outside 0 to 1"),
        ({"intrinsics": np.zeros((3, 3))}, "'intrinsics' without focal lengths above 0"),
        ({"frame_names": np.array(["img_000077.jpg"] * 3)}, "nothing about img_000000.jpg and 2 more"),
    ],
)
def test_bad_files_are_refused(rendered, change, said):
    folder = next(rendered.rglob("outside.npz")).parent
    whole = (folder / "outside.npz").read_bytes()
    with np.load(folder / "outside.npz") as file:
        arrays = {key: file[key] for key in file.files} | change
    np.savez(folder / "outside.npz", **{key: value for key, value in arrays.items() if value is not None})
    try:
        with pytest.raises(DatasetError, match=rf"outside\.npz: {said}"):
            read_egopw(folder)
    finally:
        (folder / "outside.npz").write_bytes(whole)


def test_a_run_without_the_view_is_refused_before_it_begins(rendered, settings, make_sequence, monkeypatch):
    monkeypatch.setattr(checks, "check_machine", lambda *_: None)
    root = rendered / "egopw"
    lists = [str(root / f"{split}_egopw.txt") for split in ("train", "test")]
    place = DataSetSettings(str(root), *lists, str(root / "fisheye.calibration.json"), True)
    data = replace(settings.dataset, source="files", egopw=place)

    def told(*baselines):
        asked = replace(settings, dataset=data, ablation=replace(settings.ablation, baselines=baselines))
        return [p for p in checks.check(asked, rendered).problems if "ablation.baselines" in p]

    assert not told("egopw", "egopw_one_view")
    path = next(root.rglob("outside.npz"))
    whole = path.read_bytes()
    path.unlink()
    try:
        assert not told("egopw_one_view")
        (problem,) = told("egopw")
        assert str(path) in problem and "take egopw out" in problem
    finally:
        path.write_bytes(whole)
    with pytest.raises(
        DatasetError, match=r"seen__a_32\.h5: no view from outside, and 1 more without, of 2;.* prepare"
    ):
        check_outside([make_sequence(f"seen/{name}", range(3)) for name in "ab"])
    blind = OutsideView(np.full((3, 15, 2), np.nan), np.zeros((3, 15)), np.eye(3))
    with pytest.raises(DatasetError, match="at most 0 joints in a frame; expected 6"):
        check_outside([SimpleNamespace(path="blind.h5", outside=blind)])


class Frames:
    """FrameFeatures of takes whose heatmaps point at the truth, give or take a degree."""

    def __init__(self, takes, views=None):
        self.sequences, self._rays = [], []
        for number, (take, _) in enumerate(takes):
            rng = np.random.default_rng(number)
            rays = take.joints / np.linalg.norm(take.joints, axis=-1, keepdims=True) + rng.normal(
                0, 0.015, take.joints.shape
            )
            self._rays.append((rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32))
            view = None if views is None else OutsideView(**views[number][0])
            self.sequences.append(Wild(take.joints.astype(np.float32), np.arange(len(rays)), view))

    def __len__(self):
        return sum(map(len, self.sequences))

    def frames(self, number, indices):
        joints = self.sequences[number].joints_3d[indices]
        peaks = np.full((len(joints), 15, 3, 3), 0.7, np.float32)
        return {"rays": self._rays[number][indices], "heatmaps": peaks, "joints_3d": joints}


class Wild(SimpleNamespace):
    def __init__(self, joints_3d, frame_numbers, outside):
        super().__init__(joints_3d=joints_3d, frame_numbers=frame_numbers, outside=outside, path="wild.h5")

    def __len__(self):
        return len(self.frame_numbers)


@pytest.fixture(scope="module")
def seen(takes):
    """Outside views of the first two takes: (arrays, turn, place) of each."""
    return [
        outside.outside_view(np.random.default_rng(10 + i), joints, ROOM, 30) for i, (_, joints) in enumerate(takes[:2])
    ]


def test_labels_of_two_views_are_better_and_never_read_the_truth(takes, seen, monkeypatch):
    monkeypatch.setattr("agego_lib.baselines.labels.STEPS", (40, 130))
    wild, labelled = Frames(takes[:2], seen), Frames(takes[2:])
    one, two = (pseudo_labels(wild, labelled, both) for both in (False, True))
    assert [p.shape for p in two] == [(60, 15, 3)] * 2 and two[0].dtype == np.float32
    truth = torch.from_numpy(np.concatenate([take.joints for take, _ in takes[:2]])).float()
    one, error = (1000 * float(pa_mpjpe(torch.from_numpy(np.concatenate(p)), truth)) for p in (one, two))
    assert error < 0.9 * one and error < 75, (one, error)
    monkeypatch.setattr("agego_lib.baselines.labels.STEPS", (5, 5))
    before = pseudo_labels(wild, labelled, True)
    for sequence in wild.sequences:
        sequence.joints_3d = np.full_like(sequence.joints_3d, np.nan)
    for a, b in zip(before, pseudo_labels(wild, labelled, True), strict=True):
        np.testing.assert_array_equal(a, b)


def exactly_seen(take, joints, arrays, turn, place):
    """The outside camera's picture without errors, and its true turns against the head's."""
    clean = outside.project(joints, turn, place, arrays["intrinsics"])[0].astype(np.float32)
    exact = arrays | {"joints_2d": clean, "confidence": np.ones((60, 15), np.float32)}
    return exact, np.einsum("ji,tjk->tik", turn, take.camera_turns)


def degrees_apart(turns, others):
    cosine = (np.einsum("tij,tij->t", turns, others) - 1) / 2
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def test_the_outside_camera_is_found_where_poses_are_known(takes, seen):
    """Without errors in its picture, and with a swap and holes: turns to a few degrees, places to millimetres."""
    (take, joints), (arrays, turn, place) = takes[0], seen[0]
    exact, true_turns = exactly_seen(take, joints, arrays, turn, place)
    exact["confidence"][20] = 0
    swapped = exact["joints_2d"].copy()
    swapped[40, 1:7] = exact["joints_2d"][40, [4, 5, 6, 1, 2, 3]]
    observed = _Observed(Frames([takes[0]], [(exact | {"joints_2d": swapped},)]), True)
    found = camera_turns(torch.from_numpy(take.joints).float(), observed).numpy()
    assert degrees_apart(found, true_turns).max() < 12
    clean = _Observed(Frames([takes[0]], [(exact,)]), True)
    turned = torch.from_numpy(np.einsum("tij,tnj->tni", true_turns, take.joints)).float()
    places = camera_places(turned, clean).numpy()
    true_places = (take.camera_places - place) @ turn
    np.testing.assert_allclose(np.delete(places - true_places, 20, axis=0), 0, atol=5e-3)
    np.testing.assert_allclose(places[20], (0, 0, 3), atol=1e-3)


def test_frames_without_a_solution_get_their_neighbours_camera(takes, seen):
    """Of joints seen in one place PnP makes an error, and of some pictures nothing; neither may end the run."""
    (take, joints), (arrays, turn, place) = takes[0], seen[0]
    exact, true_turns = exactly_seen(take, joints, arrays, turn, place)
    observed = _Observed(Frames([takes[0]], [(exact,)]), True)
    rng, found = np.random.default_rng(0), np.arange(15) < 6
    pictures = (rng.normal(size=(6, 2)) for _ in range(100_000))
    pose = take.joints[30, found].astype(np.float32).astype(np.float64)
    unsolved = next(p for p in pictures if not cv2.solvePnP(pose, p, np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP)[0])
    observed.seen, observed.weight = observed.seen.double(), observed.weight.clone()
    observed.seen[20] = observed.seen[20, :1]
    observed.seen[30, found], observed.weight[30, ~found] = torch.from_numpy(unsolved), 0
    turns = camera_turns(torch.from_numpy(take.joints).float(), observed).numpy()
    assert degrees_apart(turns, true_turns)[[20, 30]].max() < 12


def test_triples_across_a_hole_are_not_smoothed():
    numbers = np.array([4, 5, 6, 9, 10, 11, 12])
    wild = Wild(np.ones((7, 15, 3), np.float32), numbers, None)
    frames = SimpleNamespace(
        sequences=[wild, wild],
        frames=lambda n, i: {"rays": np.ones((len(i), 15, 3), np.float32), "heatmaps": np.ones((len(i), 15, 3, 3))},
    )
    even = _Observed(frames, False).even.tolist()
    expected = [bool(i + 2 < 7 and numbers[i + 2] - numbers[i] == 2) for i in range(7)]
    assert even == (expected * 2)[:-2] and sum(even) == 6


@pytest.fixture
def network():
    torch.manual_seed(0)
    batch = {"trunk": torch.randn(8, 6, 4, 4), "pixels": torch.rand(8, 15, 2), "rays": torch.randn(8, 15, 3)}
    return EgoPW(15, 6, np.ones(15)), batch | {
        "joints_3d": torch.randn(8, 15, 3),
        "wild": (torch.arange(8) < 5).float(),
    }


def test_the_classifiers_gradient_comes_back_reversed(network):
    model, batch = network
    gradients = {}
    for share in (-1.0, 0.3):
        model.alignment = share
        model.zero_grad()
        model.training_terms(batch)[1]["domain"].backward()
        gradients[share] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for name, plain in gradients[-1.0].items():
        own = name.startswith("domain.")
        torch.testing.assert_close(gradients[0.3][name], plain if own else -0.3 * plain)
    assert any(not name.startswith("domain.") and g.any() for name, g in gradients[0.3].items())
    alone = {key: value for key, value in batch.items() if key != "wild"}
    pose, terms = model.training_terms(alone)
    torch.testing.assert_close(pose, model(batch))
    assert float(terms["domain"].detach()) == 0


def test_alignment_keeps_the_domains_apart_no_longer(network):
    """Domains whose trunks differ by a constant: easily told apart, unless the features are trained against it."""
    _, batch = network
    batch["trunk"] = batch["trunk"] + 2 * batch["wild"][:, None, None, None]
    told = {}
    for share in (0.0, 1.0):
        torch.manual_seed(1)
        model = EgoPW(15, 6, np.ones(15), alignment=share)
        adam = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(40):
            pose, terms = model.training_terms(batch)
            adam.zero_grad()
            (terms["domain"] + (pose - batch["joints_3d"]).square().mean()).backward()
            adam.step()
        told[share] = float(terms["domain"].detach())
    assert told[0.0] < 0.05 and told[1.0] > 0.3, told


def test_domains_are_one_set_with_their_own_labels(make_sequence):
    from agego_lib.datasets import FrameItems

    class Items(FrameItems):
        def __getitem__(self, item):
            number, frame = self.place(item)
            return {"joints_3d": torch.from_numpy(self.sequences[number].joints_3d[frame])}

    wild = Items([make_sequence("domains/a", range(3)), make_sequence("domains/b", range(2))])
    labelled = Items([make_sequence("domains/c", range(4), dataset="sceneego")])
    labels = [np.full((3, 15, 3), 1.0, np.float32), np.arange(90, dtype=np.float32).reshape(2, 15, 3)]
    both = Domains(wild, labels, labelled)
    assert len(both) == 9 and [float(both[i]["wild"]) for i in range(9)] == [1.0] * 5 + [0.0] * 4
    np.testing.assert_array_equal(both[4]["joints_3d"], labels[1][1])
    np.testing.assert_array_equal(both[6]["joints_3d"], labelled.sequences[0].joints_3d[1])
    assert both.describe(4) == {"sequence": "egopw/train/domains__b", "frames": [1]}
    assert both.describe(6) == {"sequence": "sceneego/train/domains__c", "frames": [1]}
