"""The embedded data's renderer against independent references: loops, ray casting, the calibration, the files."""

import csv
import hashlib
import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
from conftest import SOURCE_FILES

from agego_data import body as bodies
from agego_data import motion, props, resume, scene, surfaces, synthetic
from agego_lib.camera import FisheyeCamera
from agego_lib.skeleton import LEFT_RIGHT_PAIRS

TINY = {
    "egopw_train": (1, 1), "egopw_test": (1, 1), "sceneego_train": (1, 1), "sceneego_test": (1, 1), "scale": 0.25,
}  # fmt: skip


@pytest.fixture(scope="module")
def camera(sources):
    return FisheyeCamera.from_json(sources / "fisheye.calibration.json")


@pytest.fixture(scope="module")
def rendered(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("raw")
    counted = []
    summary = synthetic.render_datasets(sources, out, frames_per_sequence=12, progress=counted.append, **TINY)
    return out, summary, counted


def standing(body, frames=1):
    """The neutral pose, feet near the floor: bone starts (bones, 3) and turns (bones, 3, 3)."""
    rest = np.zeros((frames, len(body.bone_names), 4))
    rest[..., 0] = 1
    starts, turns = body.pose(np.zeros((frames, 3)), rest)
    starts[..., 2] -= body.skin(starts[0], turns[0])[:, 2].min()
    return starts[0], turns[0]


def head_camera(body, starts, turns, dataset="egopw"):
    """The nominal mount, written out from its description -> camera-to-world turn (3, 3), place (3,)."""
    x, y, z, tilt, _, _ = synthetic.MOUNTS[dataset][1]
    head = body.bone("head")
    place = starts[head] + turns[head] @ (x, y, z)
    ahead, up, right = np.array([0.0, -1, 0]), np.array([0.0, 0, 1]), np.array([-1.0, 0, 0])
    axis = -up * np.cos(np.radians(tilt)) + ahead * np.sin(np.radians(tilt))
    return turns[head] @ np.stack([right, np.cross(axis, right), axis], axis=1), place


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_sources_are_varied_and_small(sources, people, clips):
    assert sum((sources / name).stat().st_size for name in SOURCE_FILES) < 6e6
    heights = [np.ptp(person.vertices[:, 2]) for person in people]
    assert len(people) >= 12 and min(heights) > 1.4 and max(heights) < 2.05 and np.ptp(heights) > 0.2
    assert len(clips) >= 12 and len({clip.action for clip in clips}) >= 8
    assert all(np.allclose(np.linalg.norm(clip.rotations, axis=-1), 1, atol=1e-4) for clip in clips)
    notice = (sources / "NOTICE.md").read_text()
    assert all(word in notice for word in ("Apache License 2.0", "CC0", "zlib", *SOURCE_FILES[:3]))


def test_missing_sources_say_what_to_do(tmp_path):
    with pytest.raises(bodies.SourcesError, match=r"bodies\.npz.*dvc pull data\.dvc"):
        synthetic.render_datasets(tmp_path, tmp_path / "out")
    (tmp_path / "bodies.npz").write_bytes(b"not a zip file")
    with pytest.raises(bodies.SourcesError, match=r"bodies\.npz.*dvc pull"):
        synthetic.render_datasets(tmp_path, tmp_path / "out")


def test_calibration_round_trip(camera):
    """Pixels inside the circle -> rays -> pixels, within 0.1 px; the circle spans more than 180 degrees."""
    rho, angle = np.meshgrid(np.linspace(0.5, camera.radius, 300), np.linspace(0, 2 * np.pi, 60))
    pixels = np.stack([rho * np.cos(angle), rho * np.sin(angle)], axis=-1) + camera.centre
    rays = camera.unproject(pixels, np.full(rho.shape, 2.0))
    assert np.abs(camera.project(rays) - pixels).max() < 0.1
    rim = camera.unproject(np.add(camera.centre, (camera.radius, 0)), 1.0)
    assert 90 < np.degrees(np.arccos(rim[2])) < 105
    # Nothing behind the camera folds back into the picture.
    behind = np.radians(np.linspace(100, 179, 200))
    points = np.stack([np.sin(behind), 0 * behind, np.cos(behind)], axis=-1)
    assert not camera.in_image(camera.project(points)).any()


def test_skinning_matches_a_loop(people, clips):
    """Each vertex by homogeneous matrices, bone by bone along its chain of parents."""
    body = people[5]
    clip = clips[3]
    starts, turns = body.pose(clip.roots[[20]] * body.leg_length, clip.rotations[[20]])
    fast = body.skin(starts[0], turns[0])

    def about(turn, origin, target):
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = target - turn @ origin
        return matrix

    local = bodies.to_matrix(clip.rotations[20])
    world = {}
    for bone, parent in enumerate(body.parents):
        if parent < 0:
            spin, place = local[bone], clip.roots[20] * body.leg_length
        else:
            spin = world[parent][0] @ local[bone]
            place = (world[parent][1] @ [*body.starts[bone], 1])[:3]
        world[bone] = spin, about(spin @ body.neutral[bone], body.starts[bone], place)
    for vertex in range(0, len(body.vertices), 7):
        expected = np.zeros(3)
        for bone, weight in enumerate(body.weights[vertex]):
            expected += weight * (world[bone][1] @ [*body.vertices[vertex], 1])[:3]
        np.testing.assert_allclose(fast[vertex], expected, atol=1e-9)


def test_rotations_agree_with_rodrigues():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 3))
    expected = np.stack([cv2.Rodrigues(v)[0] for v in vectors])
    found = bodies.from_vector(vectors)
    np.testing.assert_allclose(bodies.to_matrix(found), expected, atol=1e-12)
    product = bodies.multiply(found[:20], found[20:])
    np.testing.assert_allclose(bodies.to_matrix(product), expected[:20] @ expected[20:], atol=1e-12)
    found[20:] *= np.sign((found[:20] * found[20:]).sum(1, keepdims=True))
    half = bodies.slerp(found[:20], found[20:], np.full(20, 0.5))
    a, b = bodies.to_matrix(half), expected[:20]
    # The way from a to the middle is the way from the middle to b.
    np.testing.assert_allclose(a @ b.swapaxes(1, 2) @ a, expected[20:], atol=1e-9)


def test_joints_lie_inside_the_body(people, clips):
    for body in people[::6]:
        for clip in clips[::3]:
            starts, turns = body.pose(clip.roots[::25] * body.leg_length, clip.rotations[::25])
            for start, turn in zip(starts, turns, strict=True):
                vertices, joints = body.skin(start, turn), body.joints(start)
                assert (joints > vertices.min(0) - 0.01).all() and (joints < vertices.max(0) + 0.01).all()
                nearest = np.linalg.norm(vertices[:, None] - joints, axis=-1).min(0)
                assert nearest.max() < 0.16, nearest


def test_neutral_pose_stands_upright(people):
    for body in people:
        starts, turns = standing(body)
        joints, vertices = body.joints(starts), body.skin(starts, turns)
        assert abs(vertices[:, 2].min()) < 1e-6
        assert joints[0, 2] > joints[1, 2] > joints[2, 2] > joints[3, 2] > joints[8, 2] > joints[9, 2] > joints[10, 2]
        assert joints[10, 1] < joints[9, 1] - 0.08  # toes in front of ankles, and the front is -y
        assert 1.4 < vertices[:, 2].max() < 2.05


def test_right_is_on_the_right(people, camera):
    """Standing, the wearer's right joints are right of the left ones in the picture, and the feet above the neck."""
    for body in people[::4]:
        starts, turns = standing(body)
        for dataset in synthetic.MOUNTS:
            turn, place = head_camera(body, starts, turns, dataset)
            assert np.linalg.det(turn) == pytest.approx(1)
            pixels = camera.project((body.joints(starts) - place) @ turn)
            assert all(pixels[right, 0] > pixels[left, 0] + 20 for right, left in LEFT_RIGHT_PAIRS)
            assert pixels[0, 1] > pixels[1, 1] > pixels[10, 1]
            assert camera.in_image(pixels).all()


def axes_of(dataset, tilt, roll, yaw):
    """Camera axes in the head's: straight down, then turned by the rotation vector that the mount's angles are."""
    return synthetic.LOOK_DOWN @ cv2.Rodrigues(np.radians([tilt, roll, yaw]))[0]


def test_mounts_fill_their_ranges(people):
    """Over many draws: places and tilts as MOUNTS says, slow slips, and no training mount among those of tests."""
    seconds = np.arange(30) / 30
    for dataset, (low, mode, high) in synthetic.MOUNTS.items():
        np.testing.assert_allclose(
            axes_of(dataset, *mode[3:])[:, 2],
            [0, -np.sin(np.radians(mode[3])), -np.cos(np.radians(mode[3]))],
            atol=1e-9,
        )
        for test, real in ((False, False), (True, False), (True, True)):
            draws = [synthetic.mount(dataset, np.random.default_rng(i), seconds, test, real) for i in range(200)]
            places = np.array([p.mean(0) for _, p in draws])
            tilts = np.degrees([np.arctan2(-t[:, 1, 2], -t[:, 2, 2]).mean() for t, _ in draws])
            assert (places > low[:3] - 0.01).all() and (places < high[:3] + 0.01).all()
            assert tilts.min() > low[3] - 3 and tilts.max() < high[3] + 3
            assert 0 < max(np.abs(np.diff(t, axis=0)).max() for t, _ in draws) < 0.03
            fits = np.column_stack([places[:, 1:], tilts])
            (least, most), slack = (
                synthetic.REAL_MOUNTS if real else synthetic.TEST_MOUNTS,
                np.array([0.008, 0.008, 2.5]),
            )
            if test:
                assert (fits > least - slack).all() and (fits < most + slack).all()
            else:
                assert np.ptp(tilts) > 0.6 * (high[3] - low[3])
                assert (np.ptp(places, axis=0) > 0.6 * (high - low)[:3]).all()
                assert not ((fits > least + slack) & (fits < most - slack)).all(1).any()


def test_mirrored_motion_mirrors_the_joints(people, clips):
    """A body with equal halves, moved by a mirrored clip, is the mirror image of the same body and clip."""
    body, clip = people[2], clips[1]
    names = list(body.bone_names)
    other = [names.index(n[:-1] + ("L" if n.endswith(".R") else "R")) if "." in n else i for i, n in enumerate(names)]
    starts, _ = body.pose(clip.roots, clip.rotations)
    flipped, _ = body.pose(*motion.mirror(clip.roots, clip.rotations, body.bone_names))
    assert np.abs(flipped[:, other] * (-1, 1, 1) - starts).max() < 0.02


def nearest_surface(body_vertices, faces, origin, direction):
    """Distance along a ray to the mesh by Moller and Trumbore's test of every triangle, from either side."""
    a, b, c = (body_vertices[faces[:, k]] for k in range(3))
    p = np.cross(direction, c - a)
    det = (p * (b - a)).sum(1)
    safe = np.where(np.abs(det) < 1e-12, np.inf, det)
    u = (p * (origin - a)).sum(1) / safe
    q = np.cross(origin - a, b - a)
    v, t = q @ direction / safe, (q * (c - a)).sum(1) / safe
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-3)
    return t[hit].min() if hit.any() else np.inf


def test_hidden_agrees_with_ray_casting(people, clips, camera):
    """Away from the tolerance's edge, what the drawn picture hides is what a ray to the joint meets first."""
    viewer = scene.Viewer(camera.scaled(0.5))
    agreed = {True: 0, False: 0}
    for body, clip in zip(people[:6], clips[:6], strict=True):
        starts, turns = body.pose(clip.roots[::15] * body.leg_length, clip.rotations[::15])
        for start, spin in zip(starts, turns, strict=True):
            turn, place = head_camera(body, start, spin)
            vertices, joints = body.skin(start, spin), body.joints(start)
            ids = viewer.draw(vertices, body.faces, turn, place)
            found = viewer.hidden(ids, vertices, body.faces, len(body.faces), joints, place, turn)
            seen = viewer.camera.in_image(viewer.camera.project((joints - place) @ turn))
            assert not found[~seen].any()
            for j in np.flatnonzero(seen):
                far = np.linalg.norm(joints[j] - place)
                gap = far - nearest_surface(vertices, body.faces, place, (joints[j] - place) / far)
                if abs(gap - scene.TOLERANCE[j]) > 0.05:
                    agreed[bool(found[j]) == (gap > scene.TOLERANCE[j])] += 1
    assert agreed[True] > 200
    assert agreed[False] <= 0.03 * agreed[True], agreed  # silhouettes: the pixel's middle may miss a thin limb


def test_a_hand_before_the_chest_is_seen_and_hides(people, camera):
    """Raise the right hand between camera and left shoulder: the hand is seen, the shoulder becomes hidden."""
    viewer = scene.Viewer(camera.scaled(0.5))
    body = people[0]
    rest = np.zeros((1, len(body.bone_names), 4))
    rest[..., 0] = 1
    shoulder, wrist = 4, 3
    best = None
    for lift in np.radians(np.arange(40, 150, 10)):
        for bend in np.radians(np.arange(0, 120, 10)):
            pose = rest.copy()
            pose[0, body.bone("upperarm.R")] = bodies.from_vector(np.array([-lift, 0.0, 0.0]))
            pose[0, body.bone("forearm.R")] = bodies.from_vector(np.array([0.0, -bend, 0.0]))
            starts, turns = body.pose(np.array([[0.0, 0, 1]]), pose)
            turn, place = head_camera(body, starts[0], turns[0])
            rays = (body.joints(starts[0]) - place) @ turn
            rays /= np.linalg.norm(rays, axis=1, keepdims=True)
            apart = np.arccos(np.clip(rays[wrist] @ rays[shoulder], -1, 1))
            if best is None or apart < best[0]:
                best = apart, starts[0], turns[0], turn, place
    apart, starts, turns, turn, place = best
    assert apart < np.radians(6)
    vertices = body.skin(starts, turns)
    ids = viewer.draw(vertices, body.faces, turn, place)
    hidden = viewer.hidden(ids, vertices, body.faces, len(body.faces), body.joints(starts), place, turn)
    assert hidden[shoulder] and not hidden[wrist]
    starts, turns = standing(body)
    turn, place = head_camera(body, starts, turns)
    vertices = body.skin(starts, turns)
    ids = viewer.draw(vertices, body.faces, turn, place)
    hidden = viewer.hidden(ids, vertices, body.faces, len(body.faces), body.joints(starts), place, turn)
    assert not hidden[shoulder]


def test_floor_lies_where_the_camera_model_says(camera):
    """Marks on a white floor show up at the pixels to which their places project."""
    viewer = scene.Viewer(camera.scaled(0.5))
    size, metres = surfaces.SIDE, 4.0
    floor = np.full((size, size, 3), 250, np.uint8)
    marks = np.array([[1.0, 1.0], [2.5, 1.5], [1.5, 3.0]])
    for mark in marks:
        cv2.circle(floor, np.round(mark * size / metres).astype(int).tolist(), 20, (0, 0, 0), -1)
    padded = np.pad(floor, ((0, 1), (0, 1), (0, 0)), mode="wrap")
    atlas = cv2.cvtColor(np.concatenate([padded, np.full_like(padded, 128)]), cv2.COLOR_BGR2BGRA)
    lights = scene.Lights.random(np.random.default_rng(0))
    room = scene.Room(atlas, metres, (-3, 7, -3, 7), props.join([]), lights)
    body_camera = bodies.to_matrix(bodies.from_vector(np.array([0.2, -0.1, 0.4]))) @ synthetic.LOOK_DOWN
    place = np.array([1.8, 1.9, 1.6])
    shadow = np.full((8, 8), 255, np.uint8), np.zeros(2), 1.0
    image = viewer.background(room, body_camera, place, shadow)
    pixels = viewer.camera.project((np.column_stack([marks, np.zeros(3)]) - place) @ body_camera)
    dark = (image.max(-1) < 100).astype(np.uint8)
    _, _, _, centres = cv2.connectedComponentsWithStats(dark)
    for pixel in pixels:
        assert np.linalg.norm(centres[1:] - pixel, axis=1).min() < 1.5


def test_same_seed_same_bytes_whatever_the_workers(sources, rendered, tmp_path):
    out, summary, counted = rendered
    again = synthetic.render_datasets(sources, tmp_path / "raw", frames_per_sequence=12, workers=2, **TINY)
    assert again == summary == dict.fromkeys(TINY.keys() - {"scale"}, 12)
    assert sum(counted) == 48
    assert digest(out) == digest(tmp_path / "raw")


def test_another_seed_other_pictures_and_rendering_again_replaces(sources, rendered, tmp_path):
    out, _, _ = rendered
    for frames in (3, 2):
        synthetic.render_datasets(sources, tmp_path, frames_per_sequence=frames, seed=5, **TINY)
    first = digest(tmp_path)
    assert len([name for name in first if name.endswith(".jpg")]) == 8
    shared = set(first.values()) & set(digest(out).values())
    assert len(shared) <= 2  # the calibration and the marker
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "egopw").mkdir()
    (tmp_path / "mine" / "egopw" / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="not written by render_datasets"):
        synthetic.render_datasets(sources, tmp_path / "mine", **TINY)
    assert (tmp_path / "mine" / "egopw" / "notes.txt").read_text() == "keep me"


def test_rendering_that_was_ended_goes_on(sources, rendered, tmp_path, monkeypatch):
    """After each sequence in turn, in the middle of the next: the same files as of one that nobody touched."""
    out, summary, _ = rendered
    draw, drawn = synthetic.draw_frame, []
    kept, options = tmp_path / "kept", {"frames_per_sequence": 12, **TINY}

    def ended(*job):
        drawn.append(job)
        if len(drawn) == 12 + 5:
            raise KeyboardInterrupt
        return draw(*job)

    monkeypatch.setattr(synthetic, "draw_frame", ended)
    for _ in range(3):
        drawn.clear()
        with pytest.raises(KeyboardInterrupt):
            synthetic.render_datasets(sources, tmp_path / "raw", kept=kept, **options)
        assert not list((tmp_path / "raw").rglob("*.jpg"))
    drawn.clear()
    counted = []
    again = synthetic.render_datasets(sources, tmp_path / "raw", kept=kept, progress=counted.append, **options)
    assert len(drawn) == 12 and sum(counted) == 48  # one sequence was left
    assert again == summary and digest(tmp_path / "raw") == digest(out)
    # A process of the ended run that comes to the same end later.
    (room,) = kept.iterdir()
    whole = next(room.glob("egopw/*/seq1"))
    late = shutil.copytree(whole, whole.with_name("seq1.7.part"))
    resume.finish(late, whole)
    assert whole.is_dir() and not late.exists()
    # Once more, as where preparation failed: nothing is drawn. Of other settings nothing is taken over.
    assert synthetic.render_datasets(sources, tmp_path / "raw", kept=kept, **options) == summary and len(drawn) == 12
    assert digest(tmp_path / "raw") == digest(out)
    monkeypatch.setattr(synthetic, "draw_frame", draw)
    synthetic.render_datasets(sources, tmp_path / "other", kept=kept, seed=5, frames_per_sequence=2, **TINY)
    assert len(list(kept.iterdir())) == 1 and len(list(kept.rglob("*.jpg"))) == 8


def test_a_set_that_is_not_whole_cannot_be_prepared(sources, tmp_path, monkeypatch):
    """Stopped before the last sequence, rendering leaves no list, which preparation asks for by name."""
    render, done = synthetic._render, []

    def stopped(job, *rest):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job)
        return render(job, *rest)

    monkeypatch.setattr(synthetic, "_render", stopped)
    with pytest.raises(KeyboardInterrupt):
        synthetic.render_datasets(sources, tmp_path, frames_per_sequence=2, **TINY)
    assert len(list(tmp_path.rglob("*.pkl"))) == 3 and len(done) == 3
    assert not list(tmp_path.rglob("t*_*.txt"))


def test_settings_out_of_range_are_refused(sources, tmp_path):
    people = ({"egopw_train": (0, 1)}, {"egopw_test": (3, 0)})
    for wrong in (*people, {"scale": 0}, {"frames_per_sequence": 1}, {"step": 0}, {"anyhow": 1.5}):
        with pytest.raises(ValueError, match="expected"):
            synthetic.render_datasets(sources, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dataset", ["egopw", "sceneego"])
def test_frames_apart_are_those_of_the_same_take(sources, tmp_path, dataset):
    found = {}
    for step, frames in ((1, 20), (4, 5)):
        job = synthetic.Job(dataset, str(step), "x1", (4,), (3, 1, 0, 1), (9, 2), frames, 0.2, 0.0, step=step)
        assert synthetic._render(job, sources, tmp_path) == frames
        folder = tmp_path / str(step)
        kept = dict(np.load(folder / "visibility.npz")) | {"scene": np.load(folder / "depth.npz")["distance"]}
        pictures = [cv2.imread(str(folder / "imgs" / name)).astype(float) for name in kept["frame_names"]]
        label = {"egopw": "pseudo_gt.pkl", "sceneego": "local_pose_gt.pkl"}[dataset]
        entries = pickle.loads((folder / label).read_bytes())
        if dataset == "egopw":
            kept["poses"] = np.array([e["optimized_local_pose"] for e in entries])
            assert [e["image_name"] for e in entries] == kept["frame_names"].tolist()
        else:
            kept["poses"] = np.array([e["ego_pose_gt"] for e in entries])
            apart = json.loads((folder / "syn.json").read_text())
            names = [f"img_{e['ext_id'] - apart['ext'] + apart['ego']:06d}.jpg" for e in entries]
            assert names == kept["frame_names"].tolist()
        found[step] = kept | {"pictures": np.array(pictures)}
    dense, sparse = found.values()
    for name in sparse:
        expected = dense[name][::4]
        if name == "pictures":
            # Of other sensor noise.
            others = [np.abs(sparse[name] - dense[name][i::4]).mean() for i in (1, 2, 3)]
            assert np.abs(sparse[name] - expected).mean() < 0.8 * min(others)
        else:
            np.testing.assert_array_equal(sparse[name], expected)


def test_plan_keeps_test_people_and_actions_out_of_training(people):
    """Any number of actors: names and bodies of their own, and nothing of a test body in a training one."""
    counts = {"egopw_train": (40, 2), "egopw_test": (3, 2), "sceneego_train": (20, 3), "sceneego_test": (12, 4)}
    plan = synthetic._plan(counts, len(people), 3, 10, 0.5, 10.0, anyhow=0.4)
    # Other people of another seed, who are made of the same bodies.
    few = synthetic._plan(dict.fromkeys(counts, (8, 1)), len(people), 4, 10, 0.5, 10.0)
    jobs = [(split, job) for split, jobs in plan.items() for job in jobs]
    tested = {i for split, job in jobs if split.endswith("test") for i in job.bodies}
    trained = {i for split, job in jobs if split.endswith("train") for i in job.bodies}
    assert len(tested) == 10 and len(trained) == len(people) - 10 and not tested & trained
    assert [len({job.bodies for job in plan[split] if len(job.bodies) == 1}) for split in counts] == [14, 3, 0, 7]
    for split, jobs_of in few.items():
        assert {i for job in jobs_of for i in job.bodies} <= (tested if split.endswith("test") else trained)
    # A take's number follows the name in SceneEgo, so no name may end in digits.
    actors = {split: {job.name.split("/")[0].rstrip("0123456789") for job in jobs} for split, jobs in plan.items()}
    assert [len(names) for names in actors.values()] == [40, 3, 20, 12]
    assert len(set().union(*actors.values())) == 75
    assert len({job.name for _, job in jobs}) == len(jobs)
    for split, job in jobs:
        take = int(job.name[-1])
        assert job.test == split.endswith("test") and job.unseen == (job.test and take % 2 == 0)
        assert job.anyhow == (0 if job.test else 0.4)
    heights = {job.actor_entropy: np.ptp(synthetic.wearer(people, job).vertices[:, 2]) for split, job in jobs}
    assert len(set(heights.values())) == 75
    again = synthetic.wearer(people, plan["egopw_train"][-1]).vertices
    np.testing.assert_array_equal(again, synthetic.wearer(people, plan["egopw_train"][-2]).vertices)


def test_a_mixture_lies_between_its_bodies(people):
    rng = np.random.default_rng(8)
    for _ in range(20):
        body = bodies.mixed(people, rng)
        np.testing.assert_allclose(
            body.neutral @ body.neutral.swapaxes(1, 2), np.tile(np.eye(3), (21, 1, 1)), atol=1e-9
        )
        np.testing.assert_allclose(np.linalg.det(body.neutral), 1)
        tall = np.ptp(body.vertices[:, 2])
        heights = [np.ptp(person.vertices[:, 2]) for person in people]
        assert 0.94 * min(heights) < tall < 1.06 * max(heights)
        starts, _ = standing(body)
        assert body.joints(starts)[0, 2] > body.joints(starts)[8, 2] > body.joints(starts)[9, 2]
    same = bodies.mixed([people[3]], np.random.default_rng(0))
    size = np.ptp(same.vertices[:, 2]) / np.ptp(people[3].vertices[:, 2])
    np.testing.assert_allclose(same.vertices, size * people[3].vertices, atol=1e-9)
    np.testing.assert_allclose(same.starts, size * people[3].starts, atol=1e-9)
    np.testing.assert_allclose(same.neutral, people[3].neutral, atol=1e-5)


def test_published_layouts(rendered):
    out, _, _ = rendered
    camera = FisheyeCamera.from_json(out / "egopw" / "fisheye.calibration.json")
    assert camera == FisheyeCamera.from_json(out / "sceneego" / "fisheye.calibration.json")
    lists = {
        split: (out / split.split("_")[1] / f"{split}.txt").read_text().split()
        for split in ("train_egopw", "test_egopw", "train_sceneego", "test_sceneego")
    }
    actors = [name.split("/")[0].rstrip("0123456789") for names in lists.values() for name in names]
    assert len(set(actors)) == len(actors) == 4
    for split, names in lists.items():
        for name in names:
            folder = out / split.split("_")[1] / name
            visibility = np.load(folder / "visibility.npz")
            frames = visibility["frame_names"].tolist()
            rows = list(csv.reader((folder / "actions.csv").open()))
            assert rows[0] == ["frame", "action"] and [row[0] for row in rows[1:]] == frames and all(r[1] for r in rows)
            assert sorted(path.name for path in (folder / "imgs").iterdir()) == frames
            assert visibility["in_image"].shape == visibility["hidden"].shape == (12, 15)
            assert not (visibility["hidden"] & ~visibility["in_image"]).any()
            depth = np.load(folder / "depth.npz")
            assert depth["frame_names"].tolist() == frames and depth["distance"].shape == (12, 48, 60)
            # In the middle, feet or floor: farther than the camera is high.
            assert depth["distance"].dtype == np.float16 and (depth["distance"][:, 20:28, 26:34] > 0.1).all()
            assert not depth["distance"][:, 0, 0].any()
            image = cv2.imread(str(folder / "imgs" / frames[0]))
            assert image.shape == (256, 320, 3)
            assert image[:20, :20].mean() < 45 and image[100:150, 140:180].mean() > 15
            if "egopw" in split:
                entries = pickle.loads((folder / "pseudo_gt.pkl").read_bytes())
                assert [entry["image_name"] for entry in entries] == frames
                poses = np.stack([entry["optimized_local_pose"] for entry in entries])
                pixels = np.stack([entry["joints_2d"] for entry in entries])
                seen = visibility["in_image"]
                # Labels are off by about 10 mm and 1 px at full size, so they agree but not exactly.
                error = np.linalg.norm(camera.project(poses) - pixels, axis=-1)[seen]
                assert 0.05 < np.median(error) < 10
            else:
                entries = pickle.loads((folder / "local_pose_gt.pkl").read_bytes())
                offsets = json.loads((folder / "syn.json").read_text())
                ids = [entry["ext_id"] - offsets["ext"] + offsets["ego"] for entry in entries]
                assert [f"img_{number:06d}.jpg" for number in ids] == frames and offsets["ext"] != offsets["ego"]
                poses = np.stack([entry["ego_pose_gt"] for entry in entries])
                pixels = camera.project(poses)
                np.testing.assert_array_equal(camera.in_image(pixels), visibility["in_image"])
                # Nobody stands in a wall or a table: the scene lies behind every joint.
                n, j = np.nonzero(visibility["in_image"])
                u, v = ((pixels[n, j] + 0.5) * 48 / 256).astype(int).T
                assert len(n) > 100
                assert np.mean(depth["distance"][n, v, u] > np.linalg.norm(poses[n, j], axis=1) - 0.1) > 0.95


@pytest.mark.slow
def test_a_few_frames_are_lost_or_have_no_pose(sources, tmp_path):
    """Long enough sequences have gaps, as the real data has: at most one frame in a hundred."""
    out = tmp_path / "raw"
    settings = TINY | {"egopw_train": (2, 1), "scale": 0.1}
    summary = synthetic.render_datasets(sources, out, frames_per_sequence=100, seed=1, **settings)
    images = {split: 0 for split in ("egopw", "sceneego")}
    spoilt = []
    for path in sorted(out.rglob("*.pkl")):
        entries = pickle.loads(path.read_bytes())
        frames = np.load(path.with_name("visibility.npz"))["frame_names"].tolist()
        present = {file.name for file in (path.parent / "imgs").iterdir()}
        assert len(entries) == len(frames) == 100 and present <= set(frames)
        poses = [entry.get("optimized_local_pose", entry.get("ego_pose_gt")) for entry in entries]
        bad = [pose is None or np.isnan(pose).any() for pose in poses]
        assert not any(gap and name not in present for gap, name in zip(bad, frames, strict=True))
        spoilt.append((100 - len(present), sum(bad)))
        images[path.relative_to(out).parts[0]] += len(present)
    assert all(lost + bad == 1 for lost, bad in spoilt)
    assert any(lost for lost, _ in spoilt) and any(bad for _, bad in spoilt)
    assert images == {name: sum(count for split, count in summary.items() if split.startswith(name)) for name in images}


def test_label_noise_has_the_size_asked_for(sources, people, clips, camera, tmp_path):
    """EgoPW's labels against the take that the same generator makes: RMS distance per joint, and smooth."""
    job = synthetic.Job("egopw", "egopw/x/seq1", "x/seq1", (4,), (9, 1, 0, 1), (9, 2, 0), 200, 0.1, 25.0)
    synthetic._render(job, sources, tmp_path)
    rng = np.random.default_rng(np.random.SeedSequence(job.entropy))
    truth = synthetic.make_take(people[4], clips, "egopw", rng, 200).joints
    entries = pickle.loads((tmp_path / job.folder / "pseudo_gt.pkl").read_bytes())
    noise = np.stack([entry["optimized_local_pose"] for entry in entries]) - truth
    rms = 1000 * np.sqrt(np.nanmean((noise**2).sum(-1)))
    assert rms == pytest.approx(25, rel=0.2)
    jump = 1000 * np.sqrt(np.nanmean((np.diff(noise, axis=0) ** 2).sum(-1)))
    assert jump < 0.35 * rms


def test_the_neck_lies_where_the_data_sets_have_it(people):
    """50 mm above the middle of the shoulders, by Mo2Cap2's mean skeleton; on our broader bodies within 10 mm."""
    rest = np.tile([1.0, 0, 0, 0], (1, len(people[0].bone_names), 1))
    for body in people:
        joints = body.joints(body.pose(np.zeros((1, 3)), rest)[0])[0]
        above = joints[0] - (joints[1] + joints[4]) / 2
        assert abs(above[2] - 0.05) < 0.01 and np.hypot(*above[:2]) < 0.015
