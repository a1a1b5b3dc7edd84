"""Stretches in which joints cannot be seen: their lengths, how arms move, what is labelled, what stays as it was."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from conftest import SOURCES
from test_synthetic import nearest_surface

from agego_data import motion, props, scene, stretches, synthetic
from agego_data.actions import Rig

LEGS = slice(7, 15)
FRAMES = 150
SEED = 99  # which shows both, light and hands, and begins with neither: exposure is fitted to the first frame


def take_of(people, clips, seed, share):
    body = people[seed % len(people)]
    rng = np.random.default_rng(seed)
    return body, synthetic.make_take(body, clips, "sceneego", rng, FRAMES, hidden_stretches=share)


def runs(where):
    """[(first, end)] of stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


@pytest.mark.parametrize("share", [0.1, 0.3, stretches.MAX_SHARE])
def test_stretches_take_up_the_share_asked_for(share):
    """Counted on a clock of 10 ms, over four hours in pieces of 20 s."""
    clock, hidden, found = np.arange(0, 20, 0.01), 0.0, []
    for seed in range(720):
        spans = stretches.spans(np.random.default_rng(seed), 20.0, share)
        hidden += sum(((clock >= a) & (clock < b)).sum() for _, a, b in spans)
        assert all(b[1] - a[2] >= stretches.BETWEEN - 1e-9 for a, b in pairwise(spans))
        found += spans
    assert hidden / (720 * len(clock)) == pytest.approx(share, rel=0.06)
    for kind, (low, high) in stretches.SECONDS.items():
        lengths = np.array([end - start for name, start, end in found if name == kind])
        assert low <= lengths.min() < low + 0.1 and high - 0.1 < lengths.max() <= high
        assert len(lengths) > 0.25 * len(found)


def test_a_tray_hides_what_a_ray_meets_it_before(viewer, people, clips):
    """What a ray to it meets the tray before is labelled hidden, and of the legs nearly all is."""
    met = shown = legs = 0
    for seed in (0, 2, 7, 10):
        body, take = take_of(people, clips, seed, 0.5)
        stage = scene.Stage.random(np.random.default_rng(seed), np.random.default_rng(1), body, take)
        for i in np.flatnonzero(take.stretches.tray == 1)[::12]:
            _, worn, hidden = synthetic.draw_frame(viewer, stage, take, i)
            turn, place = props.tray_pose(stage.grip, take.starts[i], take.turns[i], 1.0)
            tray = stage.tray.moved(turn, place)
            eye, joints = take.camera_places[i], body.joints(take.starts[i])
            assert turn[2, 2] > 0.95 and worn.any()  # level
            for j in range(7, 15):
                far = np.linalg.norm(joints[j] - eye)
                gap = far - nearest_surface(tray.vertices, tray.faces, eye, (joints[j] - eye) / far)
                if gap > 0.1:
                    met += 1
                    assert hidden[j], (seed, i, j)
            legs, shown = legs + hidden[LEGS].mean(), shown + 1
    assert shown > 10 and met > 2 * shown and legs > 0.85 * shown


def test_in_the_dark_all_joints_in_the_image_are_hidden_and_nothing_else_changes(tmp_path):
    """A sequence with stretches and the same without: legs and mount as they were, and pictures to the byte where
    neither hands nor lights are meant.
    """
    folders, entropy = {}, (SEED, 1, 0, 1)
    for share in (0.0, 0.4):
        job = synthetic.Job("sceneego", f"{share}", "x1", (4,), entropy, (9, 2), 130, 0.2, 0.0, hidden_stretches=share)
        synthetic._render(job, SOURCES, tmp_path)
        folders[share] = tmp_path / job.folder
    bodies, clips = synthetic._sources(str(SOURCES))
    take = {}
    for share in folders:
        rng = np.random.default_rng(np.random.SeedSequence(entropy))
        take[share] = synthetic.make_take(bodies[4], clips, "sceneego", rng, 130, hidden_stretches=share)
    hard = take[0.4].stretches
    assert hard.dark.sum() > 15 and hard.busy.sum() > 15, "the seed shows both"
    np.testing.assert_array_equal(take[0.0].joints[:, LEGS], take[0.4].joints[:, LEGS])
    np.testing.assert_array_equal(take[0.0].camera_turns, take[0.4].camera_turns)
    before, after = (np.load(folder / "visibility.npz") for folder in folders.values())
    calm = ~hard.busy & (hard.light == 1)
    np.testing.assert_array_equal(before["hidden"][calm], after["hidden"][calm])
    np.testing.assert_array_equal(after["hidden"][hard.dark], after["in_image"][hard.dark])
    names, same = after["frame_names"], []
    for i, name in enumerate(names):
        first, second = (folder / "imgs" / name for folder in folders.values())
        if first.exists():
            same.append((i, first.read_bytes() == second.read_bytes()))
            picture = cv2.imread(str(second))
            if hard.dark[i] and hard.light[i] < 0.05:
                assert picture[60:140, 80:170].mean() < 0.35 * cv2.imread(str(first))[60:140, 80:170].mean()
    assert calm.sum() > 10 and all(equal for i, equal in same if calm[i]) and not all(equal for _, equal in same)


def test_arms_go_behind_the_back_smoothly_and_the_rest_stays(people, clips):
    """Wrists lie behind the trunk's middle at a stretch's middle; no wrist moves faster than before by much, elbows
    bend one way, and outside the stretches not a number changes."""
    behind = 0
    for seed in range(9):
        body = people[seed]
        plain = motion.make_motion(clips, body, np.random.default_rng(seed), 400, 30)
        roots = motion.on_the_floor(body, plain, 30)
        made, hard = stretches.with_stretches(plain, roots, body, np.random.default_rng(seed), 30, 0.5)
        np.testing.assert_array_equal(made[~hard.busy], plain.rotations[~hard.busy])
        legs = [i for i, name in enumerate(body.bone_names) if name.split(".")[0] not in stretches.ARMS]
        np.testing.assert_array_equal(made[:, legs], plain.rotations[:, legs])
        np.testing.assert_allclose(np.linalg.norm(made, axis=-1), 1, atol=1e-5)
        starts, turns = body.pose(roots, made)
        wrists = starts[:, [body.bone(f"hand.{s}") for s in "RL"]]
        steps = np.linalg.norm(np.diff(wrists, axis=0), axis=-1).max(1) * 30
        assert steps[hard.busy[1:]].max(initial=0) < 9, seed  # m/s; throws and kicks of the clips have as many
        chest, back = starts[:, body.bone("chest")], turns[:, body.bone("chest")][:, :, 1]
        for first, end in runs(hard.busy & np.isnan(hard.tray)):
            if first > 0 and end < 400 and end - first > 60:
                middle = (first + end) // 2
                assert ((wrists[middle] - chest[middle]) @ back[middle] > 0.05).all(), (seed, middle)
                behind += 1
    assert behind >= 4


def test_nobody_who_sits_or_lies_gets_a_tray(people, clips):
    """With a seat under him all along, a wearer is left in the dark alone."""
    body = people[0]
    piece = motion._made(Rig.of(body), "sit", ["hands on thighs"], [], np.random.default_rng(0), 6.0, 25)
    roots = piece.roots * body.leg_length
    made, hard = stretches.with_stretches(piece, roots, body, np.random.default_rng(1), 25, 0.5)
    np.testing.assert_array_equal(made, piece.rotations)
    assert hard.dark.sum() > 20 and not hard.busy.any() and np.isnan(hard.tray).all()


def test_a_share_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"hidden_stretches=0\.7; expected 0 to 0\.5"):
        synthetic.render_datasets(SOURCES, tmp_path / "out", hidden_stretches=0.7)
    assert not (tmp_path / "out").exists()
