"""The embedded data: renders small EgoPW and SceneEgo look-alikes, in the published layouts, from the sources in data/.

Bodies come from body.py, motion from motion.py, pictures from scene.py; this module makes sequences and writes files.
The same seed gives the same bytes, whatever the number of processes.
"""

import csv
import json
import os
import pickle
import shutil
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from agego_data.body import from_vector, load_bodies, mixed, smooth_noise, to_matrix
from agego_data.motion import load_clips, make_motion, on_the_floor
from agego_data.optics import Optics
from agego_data.others import find_other
from agego_data.outside import outside_view
from agego_data.resume import bring, finish, waiting_room
from agego_data.scene import Sounder, Stage, Viewer
from agego_data.stretches import MAX_SHARE, Stretches, with_stretches
from agego_lib.camera import FisheyeCamera
from agego_lib.workers import worker_pool

NAMES = ("alva", "bruno", "cleo", "dario", "edda", "falk", "gita", "hugo", "ines", "joris", "kaya", "lino", "mira",
         "otto", "petra", "quirin", "runa", "silas", "tilda", "ugo", "vera", "wim", "xenia", "yaro")  # fmt: skip
# Camera's place in the head's axes (x left, -y front, z up; metres), its tilt forward from straight down, its roll and
# yaw (degrees): least, most likely, most. EgoPW-like wearers have caps and headsets of every kind, SceneEgo-like ones
# one helmet. Both reach as near to the shoulders as the camera of three real frames of SceneEgo is: they are 53 to 55
# degrees apart there, 63 degrees off the axis on average (docs/decisions.md).
MOUNTS = {
    "egopw": np.array([(-0.03, -0.33, 0.0, 0, -5, -5), (0, -0.22, 0.08, 11, 0, 0), (0.03, -0.15, 0.22, 30, 5, 5)]),
    "sceneego": np.array(
        [(-0.015, -0.28, 0.03, 5, -2.5, -2.5), (0, -0.22, 0.08, 12, 0, 0), (0.015, -0.17, 0.185, 21.5, 2.5, 2.5)]
    ),
}
# The mounts of test sequences: place to the front, up, and tilt, least and most. Training sequences have none of them.
TEST_MOUNTS = np.array([(-0.245, 0.16, 15.0), (-0.215, 0.2, 21.0)])
# As in the three real frames, in the same order; training sequences have these too.
REAL_MOUNTS = np.array([(-0.235, 0.055, 8.0), (-0.205, 0.105, 16.0)])
# Camera axes (x right, y down, z forward) in the head's axes for a camera that looks straight down.
LOOK_DOWN = np.array([[-1.0, 0, 0], [0, 1, 0], [0, 0, -1]]).T
TEST_BODIES = 10  # of those in data/, whatever the seed and the number of people
CLEARANCE = 0.12  # metres of air kept below the camera: the floor gives way when the wearer lies face down
MARKER = "RENDERED"
PICKLE_PROTOCOL = 4


@dataclass(frozen=True)
class Job:
    """One sequence to render. bodies: the wearer's own, or those that his is a mixture of. test, unseen: whether the
    mount, the motion is of those that never train. entropy: what seeds its generator; actor_entropy: what seeds the
    wearer's looks. hidden_stretches, others, step, anyhow, real_mounts: as in `render_datasets`; pool: the bodies that
    another person may have."""

    dataset: str
    folder: str
    name: str
    bodies: tuple
    entropy: tuple
    actor_entropy: tuple
    frames: int
    scale: float
    label_noise_mm: float
    test: bool = False
    unseen: bool = False
    hidden_stretches: float = 0.0
    others: float = 0.0
    step: int = 1
    anyhow: float = 0.0
    real_mounts: bool = False
    pool: tuple = ()


def mount(dataset, rng, seconds, test=False, real=False):
    """Camera in the head's axes, drawn anew and with slow slips: turns (T, 3, 3) and places (T, 3) m.

    test: from TEST_MOUNTS, or REAL_MOUNTS if real, else from what MOUNTS has beside TEST_MOUNTS.
    """
    low, mode, high = MOUNTS[dataset]
    boxed = [1, 2, 3]
    fit = rng.triangular(low, mode, high)
    if test:
        least, most = REAL_MOUNTS if real else TEST_MOUNTS
        fit[boxed] = rng.uniform(np.maximum(low[boxed], least), np.minimum(high[boxed], most))
    else:
        while ((fit[boxed] >= TEST_MOUNTS[0]) & (fit[boxed] <= TEST_MOUNTS[1])).all():
            fit = rng.triangular(low, mode, high)
    slips = np.radians(1.0) * smooth_noise(rng, seconds, 3, 1.5) + np.radians(0.3) * smooth_noise(rng, seconds, 3, 6.0)
    # Tilt is a turn about the camera's x axis towards the front.
    turns = LOOK_DOWN @ to_matrix(from_vector(np.radians(fit[3:]) + slips))
    return turns, fit[:3] + 0.003 * smooth_noise(rng, seconds, 3, 1.5)


@lru_cache(maxsize=2)
def _sources(folder):
    return load_bodies(folder), load_clips(folder)


@lru_cache(maxsize=2)
def _viewer(folder, scale):
    return Viewer(FisheyeCamera.from_json(Path(folder) / "fisheye.calibration.json").scaled(scale))


@lru_cache(maxsize=2)
def _sounder(folder, scale):
    return Sounder(_viewer(folder, scale).full)


@dataclass
class Take:
    """A sequence before it is drawn, T frames: body's bones in the world, camera in the world, joints in the camera.

    held: what the hands hold, as in motion.Motion. seat_m, desk_m (T,): heights above the floor, in metres, of what is
    sat on and of a table top in front, NaN where none; while there is one, the wearer stays where he is. stretches:
    those in which joints cannot be seen, None where there are none. fps: frames a second.
    """

    starts: np.ndarray
    turns: np.ndarray
    camera_turns: np.ndarray
    camera_places: np.ndarray
    joints: np.ndarray
    actions: np.ndarray
    held: np.ndarray
    seat_m: np.ndarray
    desk_m: np.ndarray
    stretches: Stretches | None = None
    fps: int = 30


def wearer(bodies, job):
    """The body of a job's actor, the same in all his sequences."""
    if len(job.bodies) == 1:
        return bodies[job.bodies[0]]
    rng = np.random.default_rng(np.random.SeedSequence((*job.actor_entropy, 1)))
    return mixed([bodies[i] for i in job.bodies], rng)


def make_take(
    body, clips, dataset, rng, frames, test=False, unseen=False, hidden_stretches=0.0, anyhow=0.0, real_mounts=False
):
    """Motion and camera of one sequence. test: a mount, unseen: actions, that never train. anyhow: as in `make_motion`.
    real_mounts: tests have REAL_MOUNTS.

    joints (T, 15, 3) in metres, camera frame.
    """
    fps = int(rng.choice([25, 30]))
    motion, stretches = make_motion(clips, body, rng, frames, fps, unseen, anyhow), None
    roots = on_the_floor(body, motion, fps)
    rotations = motion.rotations
    if hidden_stretches:
        # From a generator of its own, so that all else is as without them.
        rotations, stretches = with_stretches(motion, roots, body, rng.spawn(1)[0], fps, hidden_stretches)
    starts, turns = body.pose(roots, rotations)
    head = body.bone("head")
    fixed, offset = mount(dataset, rng, np.arange(frames) / fps, test, real_mounts)
    camera_turns = turns[:, head] @ fixed
    camera_places = starts[:, head] + np.einsum("tij,tj->ti", turns[:, head], offset)
    joints = np.einsum("tij,tni->tnj", camera_turns, body.joints(starts) - camera_places[:, None])
    return Take(
        starts,
        turns,
        camera_turns,
        camera_places,
        joints,
        motion.actions,
        motion.held,
        motion.seat * body.leg_length,
        motion.desk * body.leg_length,
        stretches,
        fps,
    )


def draw_frame(viewer, stage, take, i):
    """Frame i of a take -> BGR image before lens and sensor; pixels (H, W) of the wearer, hidden joints (15,): bool."""
    turn, place = take.camera_turns[i], take.camera_places[i]
    vertices, faces, values, body_faces, worn_faces = stage.parts(take, i)
    above = np.array([place[0], place[1], max(place[2], CLEARANCE)])
    body = stage.outfit.body
    image = viewer.background(stage.room, turn, above, stage.shadow(take, i))
    ids = viewer.draw(vertices, faces, turn, place)
    viewer.paint(image, ids, vertices, faces, values, stage.atlas, turn, place)
    joints = body.joints(take.starts[i])
    hidden = viewer.hidden(ids, vertices, faces, body_faces, joints, place, turn)
    return image, (ids >= 0) & (ids < worn_faces), hidden


def distances(sounder, stage, take, i):
    """Metres to floor, room and what stands in frame i of a take, as if nobody were there -> (48, W) float32."""
    place = take.camera_places[i]
    above = np.array([place[0], place[1], max(place[2], CLEARANCE)])
    things = stage.surroundings(i)
    return sounder.distances(stage.room, things.vertices, things.faces, take.camera_turns[i], place, above)


def _move(viewer, take, i):
    """Pixels (2,) by which the surroundings pass through the picture's middle from frame i to the next."""
    j = min(i + 1, len(take.starts) - 1)
    ahead = take.camera_turns[j].T @ take.camera_turns[i] @ (0.0, 0.0, 1.0)
    return viewer.camera.project(ahead) - viewer.camera.centre


def _render(job, sources, out, progress=None):
    """Draw and write one sequence -> number of images on disk."""
    rng = np.random.default_rng(np.random.SeedSequence(job.entropy))
    bodies, clips = _sources(str(sources))
    viewer, body = _viewer(str(sources), job.scale), wearer(bodies, job)
    count = job.frames * job.step
    take = make_take(
        body, clips, job.dataset, rng, count, job.test, job.unseen, job.hidden_stretches, job.anyhow, job.real_mounts
    )
    person, wardrobe = (
        np.random.default_rng(np.random.SeedSequence(entropy)) for entropy in (job.actor_entropy, (*job.entropy, 1))
    )
    stage, optics = Stage.random(wardrobe, person, body, take), Optics.random(wardrobe, viewer)
    company = np.random.default_rng(np.random.SeedSequence((*job.entropy, 2)))
    if company.random() < job.others:
        free = [i for i in job.pool if (i,) != job.bodies]
        other = bodies[free[company.integers(len(free))]]
        other = find_other(company, other, clips, take, stage.room, viewer.camera, job.unseen)
        stage = stage if other is None else stage.joined_by(other)
    first = int(rng.integers(0, 60)) if job.dataset == "sceneego" else 0
    shown = np.arange(0, count, job.step)
    names = [f"img_{first + i:06d}.jpg" for i in shown]
    # At most one frame in a hundred is lost on disk or has no pose, as in the real data.
    spoilt = rng.choice(job.frames, job.frames // 100, replace=False)
    lost = int(rng.integers(0, min(2, len(spoilt)) + 1))
    missing, no_pose = set(spoilt[:lost].tolist()), set(spoilt[lost:].tolist())

    # Under its name once it is whole; a process of a run that was killed may still be at the same sequence.
    folder = Path(out) / f"{job.folder}.{os.getpid()}.part"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "imgs").mkdir(parents=True)
    joints = take.joints[shown]
    pixels = viewer.full.project(joints)
    hidden = np.zeros(pixels.shape[:2], bool)
    for number, (i, name) in enumerate(zip(shown, names, strict=True)):
        image, worn, hidden[number] = draw_frame(viewer, stage, take, i)
        if number == 0:
            alone = image if stage.other is None else draw_frame(viewer, replace(stage, other=None), take, i)[0]
            curve = optics.curve(alone)
        image = optics.smeared(image, worn, _move(viewer, take, i))
        light = 1.0 if take.stretches is None else take.stretches.light[i]
        image = optics.finish(image, curve, take.camera_turns[i], viewer, wardrobe, light)
        if number not in missing:
            target = folder / "imgs" / name
            if not cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, optics.quality]):
                raise OSError(f"{target}: the image could not be written; is the disk full or the folder read-only?")
        if progress:
            progress(1)
    in_image = viewer.full.in_image(pixels)
    if take.stretches is not None:
        hidden |= take.stretches.dark[shown, None] & in_image
    np.savez_compressed(folder / "visibility.npz", frame_names=np.array(names), in_image=in_image, hidden=hidden)
    sounder = _sounder(str(sources), job.scale)
    # Whole centimetres are enough, and take half the room.
    scene = np.stack([distances(sounder, stage, take, i) for i in shown]).round(2).astype(np.float16)
    np.savez_compressed(folder / "depth.npz", frame_names=np.array(names), distance=scene)
    if stage.other is not None:
        away = stage.other.joints[shown] - take.camera_places[shown, None]
        theirs = np.einsum("tij,tni->tnj", take.camera_turns[shown], away)
        np.savez_compressed(folder / "other.npz", frame_names=np.array(names), joints_3d=theirs)
    if job.dataset == "egopw" and not job.test:
        from_outside = np.random.default_rng(np.random.SeedSequence((*job.entropy, 3)))
        seen = body.joints(take.starts[shown])
        arrays, *_ = outside_view(from_outside, seen, stage.room.bounds, take.fps / job.step)
        np.savez_compressed(folder / "outside.npz", frame_names=np.array(names), **arrays)
    with open(folder / "actions.csv", "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([("frame", "action"), *zip(names, take.actions[shown].tolist(), strict=True)])
    write = _write_egopw if job.dataset == "egopw" else _write_sceneego
    write(folder, job, rng, names, joints, pixels, no_pose, first)
    finish(folder, Path(out) / job.folder)
    return job.frames - len(missing)


def _write_egopw(folder, job, rng, names, joints, pixels, no_pose, first):
    """pseudo_gt.pkl: poses with smooth noise, as of an imperfect optimisation; some are NaN. Pixels off by about 1."""
    seconds = np.arange(len(names)) * job.step / 30
    noise = smooth_noise(rng, seconds, 45, 1.5).reshape(-1, 15, 3) * job.label_noise_mm / 1000 / np.sqrt(3)
    shift = smooth_noise(rng, seconds, 30, 1.5).reshape(-1, 15, 2) * job.scale / np.sqrt(2)
    poses = joints + noise
    poses[sorted(no_pose)] = np.nan
    entries = [
        {"image_name": name, "optimized_local_pose": pose, "joints_2d": joints_2d}
        for name, pose, joints_2d in zip(names, poses, pixels + shift, strict=True)
    ]
    (folder / "pseudo_gt.pkl").write_bytes(pickle.dumps(entries, protocol=PICKLE_PROTOCOL))


def _write_sceneego(folder, job, rng, names, joints, pixels, no_pose, first):
    """local_pose_gt.pkl and syn.json: clean poses counted by an outside camera that started at another moment."""
    ego = int(rng.integers(5, 400))
    ext = ego + int(rng.integers(10, 500))
    board, outside = np.eye(4), np.eye(4)
    board[:3, 3], outside[:3, 3] = rng.normal(0, 0.5, 3), rng.normal(0, 2.0, 3)
    intrinsics = np.array([[1500.0, 0, 960], [0, 1500, 540], [0, 0, 1]])
    entries = [
        {
            "ext_id": first + i * job.step - ego + ext,
            "ego_pose_gt": None if i in no_pose else joints[i],
            "calib_board_pose": board,
            "ext_pose_gt": joints[i] @ outside[:3, :3].T + outside[:3, 3],
            "ego_camera_matrix": intrinsics,
        }
        for i in range(len(names))
    ]
    (folder / "local_pose_gt.pkl").write_bytes(pickle.dumps(entries, protocol=PICKLE_PROTOCOL))
    (folder / "syn.json").write_text(json.dumps({"ego": ego, "ext": ext}) + "\n")


def _names(rng, count):
    """Names of `count` actors, none the start of another with digits after it: those count the takes."""
    out, number = [], 0
    while len(out) < count:
        letters = "" if number == 0 else f"-{_letters(number)}"
        out += [f"{name}{letters}" for name in rng.permutation(NAMES)]
        number += 1
    return out[:count]


def _letters(number):
    """1 -> b, 2 -> c, ..., 25 -> z, 26 -> ba, ..."""
    text = ""
    while number:
        number, digit = divmod(number, 26)
        text = chr(ord("a") + digit) + text
    return text


def _plan(counts, bodies, seed, frames, scale, noise, **hard):
    """Jobs of every split: each actor has a name and a body that nobody else has, and new clothes in each sequence.

    A test actor has one of TEST_BODIES, or a mixture of them when all are taken; training actors have the others, and
    mixtures of those. The division is the same for every seed and number of actors, so that networks trained in one
    run can be tested in another. Of a test actor's sequences the second, fourth, ... show unseen actions. hard: what
    each Job has beside.
    """
    for split, (number, sequences) in counts.items():
        if number < 1 or sequences < 1:
            raise ValueError(f"{split}=({number}, {sequences}); expected at least 1 actor and 1 sequence")
    order = np.random.default_rng(0).permutation(bodies).tolist()
    pools = {"test": order[:TEST_BODIES], "train": order[TEST_BODIES:]}
    rng = np.random.default_rng(np.random.SeedSequence((seed, 0)))
    free = {part: rng.permutation(pool).tolist() for part, pool in pools.items()}
    names = _names(rng, sum(number for number, _ in counts.values()))
    jobs, actor = {}, 0
    for split, (number, sequences) in counts.items():
        dataset, part = split.split("_")
        motion = {} if part == "train" else {"anyhow": 0.0}
        jobs[split] = []
        for _ in range(number):
            body = (free[part].pop(),) if free[part] else tuple(pools[part])
            for k in range(1, sequences + 1):
                name = f"{names[actor]}/seq{k}" if dataset == "egopw" else f"{names[actor]}{k}"
                jobs[split].append(
                    Job(
                        dataset, f"{dataset}/{name}", name, body, (seed, 1, actor, k), (seed, 2, actor), frames, scale,
                        noise, test=part == "test", unseen=part == "test" and k % 2 == 0,
                        pool=tuple(pools[part]), **hard | motion,
                    )
                )  # fmt: skip
            actor += 1
    return jobs


def _clear(folder):
    """Make way for new data, but only over what this module wrote."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise FileExistsError(
            f"{folder}: not empty, and not written by render_datasets (no file {MARKER}); empty it first"
        )
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("Rendered from data/ by agego_data.synthetic; rendering again replaces this folder.\n")


def render_datasets(
    sources,
    out,
    *,
    seed=0,
    scale=0.5,
    frames_per_sequence=240,
    egopw_train=(6, 2),
    egopw_test=(2, 1),
    sceneego_train=(3, 1),
    sceneego_test=(1, 1),
    label_noise_mm=10.0,
    hidden_stretches=0.0,
    others=0.0,
    step=1,
    anyhow=0.0,
    real_mounts=False,
    workers=1,
    progress=None,
    kept=None,
):
    """Render an EgoPW and a SceneEgo look-alike in the data sets' published layouts.

    sources: folder with bodies.npz, clips.npz, fisheye.calibration.json. out: folder that gets egopw/ and sceneego/;
    what this function wrote there before is replaced. scale: image size relative to the calibration's 1280x1024.
    egopw_train and the like: (actors, sequences an actor), as many as wanted; no two actors share a body, clothes or a
    name. Test actors have bodies and mounts that train nowhere, and actions so in every second sequence (_plan).
    label_noise_mm: RMS distance of EgoPW's pseudo labels from the truth, per joint; SceneEgo's labels are exact.
    hidden_stretches: about this share of each sequence's time, up to stretches.MAX_SHARE, goes by with legs behind a
    tray, the arms behind the back, or no light; all else (legs, mounts, rooms, clothes, lenses) is as without them.
    others: probability that in a sequence another person, with a body of the same split, stands or walks before the
    wearer (others.py); all else is as without. Where no place is free for one, there is none.
    step: frames are so many of 25 or 30 a second apart: more poses for as much drawing, where no motion is learned.
    anyhow: share of the pieces of training sequences in which arms and legs go anywhere (motion.make_motion); test
    sequences are as without.
    real_mounts: whether test people have REAL_MOUNTS, which train, not TEST_MOUNTS.
    workers: processes; the bytes written do not depend on it. progress: called with the number of frames newly done.
    kept: folder in which finished sequences wait too, so that the same call goes on from them where one was ended;
    whoever calls removes it when all is well. None: each call begins anew.

    Beside the published files each sequence has actions.csv (frame, action) and visibility.npz: frame_names (N,),
    in_image and hidden (N, 15) bool; hidden joints are in the image, but behind the body (scene.TOLERANCE) or a thing,
    or less than stretches.DARK of the light is left: then all of them are. With another person there is other.npz:
    frame_names, and joints_3d (N, 15, 3), that person's joints in the camera's frame, metres. And depth.npz:
    frame_names, and distance (N, H, W) float16, metres along the rays of the image's pixels, made H rows small, to the
    floor, the room and what stands in it, as if nobody were there; 0 beyond the image circle. EgoPW's training
    sequences have outside.npz: frame_names, and what a detector would tell of a fixed camera's pictures (outside.py).
    EgoPW's pixels and the calibration written are those of the scaled images.

    -> images on disk per split, e.g. {"egopw_train": 2877, ...}. Raises SourcesError where a source is missing,
    CalibrationError for a bad calibration, ValueError for settings out of range, FileExistsError where `out` holds
    something else.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale={scale}; expected above 0 and at most 1")
    if frames_per_sequence < 2 or workers < 1:
        raise ValueError(f"frames_per_sequence={frames_per_sequence}, workers={workers}; expected at least 2 and 1")
    if step < 1:
        raise ValueError(f"step={step}; expected at least 1")
    if not 0 <= hidden_stretches <= MAX_SHARE:
        raise ValueError(f"hidden_stretches={hidden_stretches}; expected 0 to {MAX_SHARE}")
    if not 0 <= anyhow <= 1:
        raise ValueError(f"anyhow={anyhow}; expected 0 to 1")
    if not 0 <= others <= 1:
        raise ValueError(f"others={others}; expected 0 to 1")
    counts = {"egopw_train": egopw_train, "egopw_test": egopw_test}
    counts |= {"sceneego_train": sceneego_train, "sceneego_test": sceneego_test}
    sources, out = Path(sources).resolve(), Path(out)
    bodies, _ = _sources(str(sources))
    camera = _viewer(str(sources), scale).full
    hard = {
        "hidden_stretches": hidden_stretches, "others": others, "step": step, "anyhow": anyhow,
        "real_mounts": real_mounts,
    }  # fmt: skip
    plan = _plan(counts, len(bodies), seed, frames_per_sequence, scale, label_noise_mm, **hard)
    for dataset in ("egopw", "sceneego"):
        _clear(out / dataset)
        (out / dataset / "fisheye.calibration.json").write_text(camera.to_json() + "\n")
    place = out if kept is None else waiting_room(kept, plan, sources)
    tasks, summary = [], dict.fromkeys(plan, 0)
    for split, job in ((split, job) for split, jobs in plan.items() for job in jobs):
        if (place / job.folder).is_dir():
            summary[split] += len(os.listdir(place / job.folder / "imgs"))
            if progress:
                progress(job.frames)
        else:
            tasks.append((split, job))
    if workers == 1:
        for split, job in tasks:
            summary[split] += _render(job, sources, place, progress)
    else:
        with worker_pool(workers) as pool:
            futures = {pool.submit(_render, job, sources, place): (split, job) for split, job in tasks}
            for future in as_completed(futures):
                split, job = futures[future]
                summary[split] += future.result()
                if progress:
                    progress(job.frames)
    if place != out:
        for job in (job for jobs in plan.values() for job in jobs):
            bring(place / job.folder, out / job.folder)
    # Last, as a set that is not whole must not be prepared.
    for split, jobs in plan.items():
        dataset, part = split.split("_")
        (out / dataset / f"{part}_{dataset}.txt").write_text("".join(f"{job.name}\n" for job in jobs))
    return summary
