"""Another person before the camera: where, whom it changes what for, and what it hides."""

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SOURCES
from test_synthetic import nearest_surface

from agego_data import others, scene, synthetic

FRAMES = 40
COUNTS = dict.fromkeys(("egopw_train", "egopw_test", "sceneego_train", "sceneego_test"), (1, 1))


@pytest.fixture(scope="module")
def met():
    """Takes with somebody else: [(take, stage without, stage with)]."""
    bodies, clips = synthetic._sources(str(SOURCES))
    camera = synthetic._viewer(str(SOURCES), 0.375).camera
    found = []
    for seed in range(6):
        body = bodies[seed]
        take = synthetic.make_take(body, clips, "sceneego", np.random.default_rng(seed), FRAMES)
        stage = scene.Stage.random(np.random.default_rng(seed), np.random.default_rng(1), body, take)
        other = others.find_other(np.random.default_rng(seed), bodies[seed + 9], clips, take, stage.room, camera)
        if other is not None:
            found.append((take, stage, stage.joined_by(other)))
    assert len(found) >= 5
    return found


def test_they_stand_on_the_floor_face_the_wearer_and_keep_their_distance(met):
    for take, _, stage in met:
        other = stage.other
        body, far = other.outfit.body, np.linalg.norm(other.starts[:, 0, :2] - take.starts[:, 0, :2], axis=1)
        towards = (take.starts[:, 0, :2] - other.starts[:, 0, :2]) / far[:, None]
        facing = -other.turns[:, 0, :2, 1]
        facing /= np.linalg.norm(facing, axis=1, keepdims=True)
        angle = np.degrees(np.arccos(np.clip((facing * towards).sum(1), -1, 1)))
        assert ((far > 0.6) & (far < 2.0) & (angle < 50)).any()
        lowest = [body.skin(other.starts[i], other.turns[i])[:, 2].min() for i in range(0, FRAMES, 8)]
        assert np.abs(lowest).max() < 0.2 and np.median(np.abs(lowest)) < 0.05
        for i in range(FRAMES):
            assert min(np.linalg.norm(a - b) for a in other.starts[i] for b in take.starts[i]) > others.APART


def test_they_hide_what_a_ray_meets_them_before(met):
    """Joints of the wearer are hidden where a ray meets the other body well before them, else they are as before."""
    viewer, agreed, changed, differ = synthetic._viewer(str(SOURCES), 0.375), {True: 0, False: 0}, 0, []
    for number, (take, without, stage) in enumerate(met):
        if number % 2:  # sunk into the floor, and closer than they come by themselves, into the way of the legs
            step = take.starts[0, 0] - take.turns[0, 0][:, 1] * 0.3 - stage.other.starts[0, 0]
            stage = replace(
                stage, other=replace(stage.other, starts=stage.other.starts + step * (1, 1, 0) - (0, 0, 0.8))
            )
        for i in range(0, FRAMES, 13):
            image, worn, hidden = synthetic.draw_frame(viewer, stage, take, i)
            plain, worn_before, before = synthetic.draw_frame(viewer, without, take, i)
            other, eye = stage.other, take.camera_places[i]
            vertices, faces = other.outfit.body.skin(other.starts[i], other.turns[i]), other.outfit.body.faces
            assert not (worn & ~worn_before).any()  # nobody else's pixels count as the wearer's
            joints = stage.outfit.body.joints(take.starts[i])
            inside = viewer.camera.in_image(viewer.camera.project((joints - eye) @ take.camera_turns[i]))
            for j in np.flatnonzero(inside):
                far = np.linalg.norm(joints[j] - eye)
                gap = far - nearest_surface(vertices, faces, eye, (joints[j] - eye) / far)
                if abs(gap) > 0.1:
                    agreed[bool(hidden[j] == (gap > 0 or before[j]))] += 1
                    changed += hidden[j] and not before[j]
            # Where the person's own joints project, the picture differs.
            pixels = viewer.camera.project((other.joints[i] - eye) @ take.camera_turns[i])
            seen = viewer.camera.in_image(pixels)
            if seen.all():
                u, v = pixels.round().astype(int).T
                differ.append((image[v, u] != plain[v, u]).any(1).mean())
    # Silhouettes: the pixel's middle may miss.
    assert agreed[True] > 200 and agreed[False] <= 0.03 * agreed[True], agreed
    assert changed > 5 and np.mean(differ) > 0.5


def test_the_wearer_s_sequence_is_the_same_one(tmp_path):
    """With and without: the same names, labels and mounts in every split; other bodies of the same split; two
    processes give the bytes of one."""
    settings = {"scale": 0.2, "frames_per_sequence": 4, **COUNTS}
    for name, more in {"without": {}, "with": {"others": 1.0}, "twice": {"others": 1.0, "workers": 2}}.items():
        synthetic.render_datasets(SOURCES, tmp_path / name, **settings, **more)
    files = {
        name: {str(p.relative_to(tmp_path / name)): p for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("without", "with", "twice")
    }
    digests = {name: {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in files[name].items()} for name in files}
    assert digests["with"] == digests["twice"]
    added = {k for k in files["with"] if k not in files["without"]}
    assert {Path(k).name for k in added} == {"other.npz"} and len(added) >= 3
    assert files["without"].keys() == files["with"].keys() - added
    labels = [k for k in files["without"] if not k.endswith((".jpg", "visibility.npz"))]
    assert len(labels) > 12 and all(digests["without"][k] == digests["with"][k] for k in labels)
    pictures = [k for k in files["without"] if k.endswith(".jpg")]
    changed = sum(digests["without"][k] != digests["with"][k] for k in pictures)
    assert changed >= 3 * len(added)  # of four each: somebody is out of view at times
    for k in added:
        with np.load(files["with"][k]) as file:
            assert file["joints_3d"].shape == (4, 15, 3) and np.isfinite(file["joints_3d"]).all()
        picture = next(p for p in pictures if p.startswith(str(Path(k).parent)))
        before, after = (cv2.imread(str(files[name][picture])).astype(int) for name in ("without", "with"))
        # The exposure is the same: most of the picture does not change by more than coding does.
        assert np.median(np.abs(after - before)) <= 3


def test_a_probability_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"others=1\.5; expected 0 to 1"):
        synthetic.render_datasets(SOURCES, tmp_path / "out", others=1.5)
