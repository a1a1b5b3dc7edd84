"""docs/bad-input.md, row by row: each fault is made, and what the user sees and keeps is what the page says.

Faults of one frame or one sequence are counted and cost no more than themselves; faults of the whole stop the run with
one readable error. The data sets are prepared as `01_data_preparation` does.
"""

import errno
import json
import os
import pickle
import re
import resource
import shutil
import struct
import zlib
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

import cv2
import h5py
import numpy as np
import pytest
import torch
from conftest import lens

from agego_lib import params
from agego_lib.camera import CalibrationError
from agego_lib.datasets import DatasetError, PreparedSequence, prepare_dataset, read_prepared
from agego_lib.datasets.features import FeatureError, feature_file, open_features, store_features
from agego_lib.evaluation import load_poses, save_poses, write_metrics
from agego_lib.models import HeatmapNet, WeightsError, weights
from agego_lib.models.backbone import read_checkpoint
from agego_lib.models.build import load_heatmap_net, load_model

PAGE = Path(__file__).resolve().parents[1] / "docs/bad-input.md"
SIZE, FRAMES = (96, 80), 10
CALIBRATION = {
    "size": list(SIZE),
    "intrinsic": [[1, 0, 48.0, 0], [0, 1, 40.0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    **dict(zip(("polynomialC2W", "polynomialW2C"), lens(-24.0, 0.0, 0.012, reach=50), strict=True)),
}
ANNOTATIONS = {"egopw": "pseudo_gt.pkl", "sceneego": "local_pose_gt.pkl"}
POSE_KEY = {"egopw": "optimized_local_pose", "sceneego": "ego_pose_gt"}
BAD = {"egopw": "bad/one", "sceneego": "bad1"}
GOOD = {"egopw": ("good/one", "test/one"), "sceneego": ("good1", "test1")}


class Layout:
    """A small data set of one kind: a training sequence to spoil, a good one, and a test one."""

    def __init__(self, folder, kind):
        self.root, self.kind = Path(folder), kind
        for index, name in enumerate((BAD[kind], *GOOD[kind])):
            self.write(name, index)
        (self.root / "train.txt").write_text(f"{BAD[kind]}\n{GOOD[kind][0]}\n")
        (self.root / "test.txt").write_text(f"{GOOD[kind][1]}\n")
        self.calibration = self.root / "camera.json"
        self.calibration.write_text(json.dumps(CALIBRATION))

    def write(self, name, seed):
        rng, folder = np.random.default_rng(seed), self.root / name
        (folder / "imgs").mkdir(parents=True)
        entries = []
        for number in range(1, FRAMES + 1):
            image = cv2.resize(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8), SIZE)
            cv2.imwrite(str(folder / "imgs" / f"img_{number:06d}.jpg"), image)
            pose = rng.normal([0, 0, 0.6], 0.2, (15, 3))
            if self.kind == "egopw":
                name_of = f"img_{number:06d}.jpg"
                entry = {"image_name": name_of, "optimized_local_pose": pose, "joints_2d": rng.uniform(9, 70, (15, 2))}
            else:
                entry = {"ext_id": number + 300, "ego_pose_gt": pose}
            entries.append(entry)
        (folder / ANNOTATIONS[self.kind]).write_bytes(pickle.dumps(entries))
        if self.kind == "sceneego":
            (folder / "syn.json").write_text(json.dumps({"ego": 100, "ext": 400}))

    @property
    def bad(self):
        return self.root / BAD[self.kind]

    @property
    def annotations(self):
        return self.bad / ANNOTATIONS[self.kind]

    def image(self, number):
        return self.bad / "imgs" / f"img_{number:06d}.jpg"

    def change(self, number, **values):
        """Other values in the annotation of one frame."""
        self.edit(lambda entries: entries[number - 1].update(values))

    def pose(self, number, value):
        self.change(number, **{POSE_KEY[self.kind]: value})

    def edit(self, function):
        entries = pickle.loads(self.annotations.read_bytes())
        result = function(entries)
        self.annotations.write_bytes(pickle.dumps(entries if result is None else result))

    def prepare(self, **options):
        lists = self.root / "train.txt", self.root / "test.txt"
        options = {"size": 32, "max_skipped": 0.5, **options}
        return prepare_dataset(self.kind, self.root, *lists, self.calibration, self.root / "out", **options)


def calibration(**changes):
    def apply(data):
        data.calibration.write_text(json.dumps({**CALIBRATION, **changes}))

    return apply


def jpeg(number, size):
    return lambda data: cv2.imwrite(str(data.image(number)), np.full((size[1], size[0], 3), 90, np.uint8))


def truncated(data):
    data.image(3).write_bytes(data.image(3).read_bytes()[:-60])


def huge_header(data):
    """A JPEG whose header claims 60,000 x 60,000 pixels."""
    raw = bytearray(data.image(3).read_bytes())
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    data.image(3).write_bytes(raw)


def as_png(data, number, damaged=False):
    """The frame as a PNG with an orientation tag, every other one in grey of 16 bits."""
    path = data.image(number)
    image = cv2.imread(str(path))
    raw = cv2.imencode(".png", image if number % 2 else image[..., 0].astype(np.uint16) * 257)[1].tobytes()
    tag = b"eXIf" + b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    raw = raw[:33] + struct.pack(">I", len(tag) - 4) + tag + struct.pack(">I", zlib.crc32(tag)) + raw[33:]
    path.unlink()
    path.with_suffix(".png").write_bytes(raw[:-30] + b"?" + raw[-29:] if damaged else raw)


def round_frames(data):
    """Every frame shows an image circle, 9 px beside the calibration's."""
    v, u = np.mgrid[: SIZE[1], : SIZE[0]]
    inside = np.hypot(u - 57, v - 40) < 26
    for number, path in enumerate(sorted(data.root.rglob("*.jpg"))):
        cv2.imwrite(str(path), np.where(inside, 120 + number, 22).astype(np.uint8))


def not_for_reading(path):
    """A folder where a file is expected: unreadable for every user, root too."""
    path.unlink()
    path.mkdir()


def names(data):
    """The frames of the bad sequence, as a file beside them names them."""
    return np.array([data.image(number).name for number in range(1, FRAMES + 1)])


def link_outside(data, path):
    """Move a file or folder out of the data set, and link it from where it was."""
    target = data.root.parent / f"{data.root.name} elsewhere"
    target.mkdir()
    path.rename(target / path.name)
    path.symlink_to(target / path.name)


# (id, what is wrong, kinds, how it is made, outcome, what is said). Outcomes: "frame": that frame is left out and
# counted under the reason; "sequence": that sequence is left out and reported; "stop": the run ends with the error;
# "fine": it is no fault; "warned": it is said.
BOTH = ("egopw", "sceneego")
FAULTS = [
    ("image-missing", "a frame's image is missing", BOTH, lambda d: d.image(3).unlink(), "frame", "missing on disk"),
    ("image-empty", "an image file is empty", BOTH, lambda d: d.image(3).write_bytes(b""), "frame", "empty file"),
    ("image-truncated", "an image is cut off", BOTH, truncated, "frame", "truncated JPEG"),
    ("image-text", "an image file holds text", BOTH, lambda d: d.image(3).write_text("<html>" * 50), "frame",
     "not a JPEG"),
    ("image-huge", "an image's header claims 60,000 × 60,000 px", BOTH, huge_header, "frame",
     "wrong size"),
    ("image-size", "one image has another size than the calibration", BOTH, jpeg(3, (64, 64)), "frame",
     "wrong size"),
    ("image-folder", "a folder stands in an image's place", BOTH, lambda d: not_for_reading(d.image(3)), "frame",
     "missing on disk"),
    ("image-link", "an image is a link out of the data set", BOTH, lambda d: link_outside(d, d.image(3)), "frame",
     "link out of the data set"),
    ("pose-none", "a frame has no pose", BOTH, lambda d: d.pose(3, None), "frame", "is None"),
    ("pose-nan", "a pose holds NaN", BOTH, lambda d: d.pose(3, np.full((15, 3), np.nan)), "frame",
     "NaN or infinite"),
    ("pose-infinite", "a pose holds infinity", BOTH, lambda d: d.pose(3, np.full((15, 3), np.inf)), "frame",
     "NaN or infinite"),
    ("pose-shape", "a pose has 16 joints", BOTH, lambda d: d.pose(3, np.zeros((16, 3))), "frame", r"not \(15, 3\)"),
    ("pose-text", "a pose is a text", BOTH, lambda d: d.pose(3, "0 0 0"), "frame", r"not \(15, 3\)"),
    ("pose-flat", "a pose is a flat list of 45 numbers", BOTH, lambda d: d.pose(3, [0.0] * 45), "frame",
     r"not \(15, 3\)"),
    ("pose-complex", "a pose is of complex numbers", BOTH, lambda d: d.pose(3, np.zeros((15, 3), complex)), "frame",
     "complex128 array"),
    ("pose-bytes", "a pose is an array of texts", BOTH, lambda d: d.pose(3, np.full((15, 3), "0.1")), "frame",
     "U3 array"),
    ("pose-unit", "a pose is in millimetres", BOTH, lambda d: d.pose(3, np.full((15, 3), 350.0)), "frame",
     "is not in metres"),
    ("poses-unit", "all poses are in millimetres", BOTH,
     lambda d: d.edit(lambda e: [{**x, POSE_KEY[d.kind]: 1000 * x[POSE_KEY[d.kind]]} for x in e]), "sequence",
     "10 x .* is not in metres"),
    ("pixels-missing", "a frame has no 2D joints", ("egopw",), lambda d: d.change(3, joints_2d=None), "frame",
     "no joints_2d"),
    ("pixels-shape", "2D joints have three columns", ("egopw",), lambda d: d.change(3, joints_2d=np.ones((15, 3))),
     "frame", r"not \(15, 2\)"),
    ("pixels-nan", "no 2D joint of a frame is finite", ("egopw",),
     lambda d: d.change(3, joints_2d=np.full((15, 2), np.nan)), "frame", "no finite pixel"),
    ("name-path", "`image_name` leaves the folder (`../../x.jpg`)", ("egopw",),
     lambda d: d.change(3, image_name="../../img_000001.jpg"), "frame", "not of the form"),
    ("name-number", "`image_name` is a number", ("egopw",), lambda d: d.change(3, image_name=3), "frame",
     "not of the form"),
    ("name-other", "a frame is called `frame_3.jpg`, not `img_000003.jpg`", BOTH,
     lambda d: d.image(3).rename(d.bad / "imgs/frame_3.jpg"), "frame", "missing on disk"),
    ("names-other", "all frames are called `frame_3.jpg` and the like", BOTH,
     lambda d: [d.image(n).rename(d.bad / f"imgs/frame_{n}.jpg") for n in range(1, FRAMES + 1)], "sequence",
     r"named as 'img_000012\.jpg' under imgs/.*'frame_1\.jpg' and 9 more there are not named so"),
    ("name-spelling", "a frame is called `img_3.JPG`", BOTH,
     lambda d: d.image(3).rename(d.bad / "imgs/img_3.JPG") and None, "fine", ""),
    ("name-twice", "`img_000003.jpg` and `img_3.png` are both there", BOTH,
     lambda d: cv2.imwrite(str(d.bad / "imgs/img_3.png"), cv2.imread(str(d.image(3)))), "frame",
     "two files claim one frame number"),
    ("frames-companions", "macOS companions (`._img_000003.jpg`) lie beside the frames", BOTH,
     lambda d: [(d.bad / "imgs" / f"._{p.name}").write_bytes(b"\0\5\x16\7") for p in (d.bad / "imgs").iterdir()],
     "fine", ""),
    ("frames-png", "frames are PNG, with an orientation tag or in grey", BOTH,
     lambda d: [as_png(d, n) for n in range(1, FRAMES + 1)], "fine", ""),
    ("frame-motion", "a video follows the frame within its JPEG (motion photo)", BOTH,
     lambda d: d.image(3).write_bytes(d.image(3).read_bytes() + b"\0\0\0\x18ftypmp42" * 40), "fine", ""),
    ("png-damaged", "a PNG frame is damaged", BOTH, lambda d: as_png(d, 3, damaged=True), "frame", "damaged PNG"),
    ("names-disagree", "`image_name` and `ext_id` name different frames", ("sceneego",),
     lambda d: d.edit(lambda e: [x | {"image_name": f"img_{i:06d}.jpg", "ext_id": 999} for i, x in enumerate(e, 1)]),
     "fine", ""),
    ("id-text", "`ext_id` is a text", ("sceneego",), lambda d: d.change(3, ext_id="303"), "frame", "ext_id"),
    ("id-early", "`ext_id` lies before the first frame", ("sceneego",), lambda d: d.change(3, ext_id=1), "frame",
     "ext_id before the first frame"),
    ("repeated", "two annotations name the same frame", BOTH, lambda d: d.edit(lambda e: [*e, e[2]]), "frame",
     "repeated annotation"),
    ("annotation-type", "an annotation is a number, not a dict", BOTH, lambda d: d.edit(lambda e: [*e[:2], 7, *e[3:]]),
     "frame", "is a int, not a dict"),
    ("unsorted", "annotations are not sorted by frame", BOTH, lambda d: d.edit(lambda e: e[::-1]), "fine", ""),
    ("gap", "frame numbers have a gap", BOTH, lambda d: (d.edit(lambda e: [*e[:3], *e[5:]]), None)[1], "fine", ""),
    ("folder-missing", "a listed sequence's folder is missing", BOTH, lambda d: shutil.rmtree(d.bad), "stop",
     r"train\.txt, line 1: .* is no directory"),
    ("annotations-missing", "the annotation file is missing", BOTH, lambda d: d.annotations.unlink(), "sequence",
     "no annotation file; expected"),
    ("annotations-empty", "the annotation file is empty", BOTH, lambda d: d.annotations.write_bytes(b""), "sequence",
     ANNOTATIONS["egopw"] + "|" + ANNOTATIONS["sceneego"]),
    ("annotations-cut", "the annotation file is cut off", BOTH,
     lambda d: d.annotations.write_bytes(d.annotations.read_bytes()[:-20]), "sequence", r"\.pkl"),
    ("annotations-text", "the annotation file holds a web page", BOTH,
     lambda d: d.annotations.write_text("<html>Sign in</html>"), "sequence", r"\.pkl"),
    ("annotations-type", "the annotations are a dict, not a list", BOTH, lambda d: d.edit(lambda e: {"a": e}),
     "sequence", "expected a list of dicts"),
    ("annotations-none", "the list of annotations is empty", BOTH, lambda d: d.edit(lambda e: []) or
     d.annotations.write_bytes(pickle.dumps([])), "sequence", "an empty list"),
    ("annotations-code", "the annotation file would run code", BOTH,
     lambda d: d.annotations.write_bytes(pickle.dumps(os.system)), "sequence", "posix.system|nt.system"),
    ("annotations-folder", "a folder stands in the annotation file's place", BOTH,
     lambda d: not_for_reading(d.annotations), "sequence", "no annotation file"),
    ("annotations-link", "the annotation file is a link out of the data set", BOTH,
     lambda d: link_outside(d, d.annotations), "sequence", "a link out of the data set"),
    ("frames-link", "the folder `imgs/` is a link out of the data set", BOTH,
     lambda d: link_outside(d, d.bad / "imgs"), "sequence", "a link out of the data set"),
    ("sequence-link", "a whole sequence is a link out of the data set", BOTH,
     lambda d: link_outside(d, d.bad), "fine", ""),
    ("frames-missing", "the folder `imgs/` is missing", BOTH, lambda d: shutil.rmtree(d.bad / "imgs"), "sequence",
     "imgs: not readable"),
    ("frames-none", "no image is in `imgs/`", BOTH, lambda d: [p.unlink() for p in (d.bad / "imgs").iterdir()],
     "sequence", "no usable frame among 10 annotations and 0 frames on disk"),
    ("sync-missing", "`syn.json` is missing", ("sceneego",), lambda d: (d.bad / "syn.json").unlink(), "sequence",
     r"syn\.json: missing"),
    ("sync-text", "`syn.json` is no JSON", ("sceneego",), lambda d: (d.bad / "syn.json").write_text("ego: 1"),
     "sequence", r"syn\.json: not readable as JSON"),
    ("sync-type", "`syn.json` holds texts", ("sceneego",),
     lambda d: (d.bad / "syn.json").write_text('{"ego": "100", "ext": "400"}'), "sequence", "no whole numbers"),
    ("actions-header", "`actions.csv` has another header", BOTH,
     lambda d: (d.bad / "actions.csv").write_text("frame;action\n"), "sequence", r"actions\.csv: header"),
    ("actions-cells", "a line of `actions.csv` lacks the action", BOTH,
     lambda d: (d.bad / "actions.csv").write_text("frame,action\nimg_000001.jpg\n"), "sequence",
     r"actions\.csv, line 2: 1 cells"),
    ("actions-bytes", "`actions.csv` is not UTF-8", BOTH,
     lambda d: (d.bad / "actions.csv").write_bytes(b"frame,action\n\xff\xfe,a\n"), "sequence", "not readable as UTF-8"),
    ("visibility-zip", "`visibility.npz` is damaged", BOTH,
     lambda d: (d.bad / "visibility.npz").write_bytes(b"PK\x03\x04" + b"\0" * 80), "sequence", "not readable as NPZ"),
    ("visibility-shape", "`visibility.npz` has other shapes", BOTH,
     lambda d: np.savez(d.bad / "visibility.npz", frame_names=np.array(["a"]), hidden=np.ones((1, 3), bool)),
     "sequence", "'hidden' is bool of shape"),
    ("visibility-objects", "`visibility.npz` holds pickled objects", BOTH,
     lambda d: np.savez(d.bad / "visibility.npz", frame_names=np.array([{}], dtype=object)), "sequence",
     "not readable as NPZ"),
    ("depth-zip", "`depth.npz` is damaged", BOTH,
     lambda d: (d.bad / "depth.npz").write_bytes(b"PK\x03\x04" + b"\0" * 80), "sequence", "not readable as NPZ"),
    ("depth-units", "`depth.npz` is in millimetres", BOTH,
     lambda d: np.savez(d.bad / "depth.npz", frame_names=names(d), distance=np.full((FRAMES, 6, 8), 1600.0)),
     "sequence", "'distance' is not in metres"),
    ("outside-zip", "`outside.npz` is damaged", BOTH,
     lambda d: (d.bad / "outside.npz").write_bytes(b"PK\x03\x04" + b"\0" * 80), "sequence", "not readable as NPZ"),
    ("outside-lacks", "`outside.npz` lacks an array", BOTH,
     lambda d: np.savez(d.bad / "outside.npz", frame_names=names(d), intrinsics=np.eye(3)), "sequence",
     "no confidence, joints_2d"),
    ("images-size", "every image has another size than the calibration", BOTH,
     lambda d: [jpeg(n, (64, 64))(d) for n in range(1, FRAMES + 1)], "sequence", "wrong size: image of 64x64"),
    ("list-missing", "a split list is missing", BOTH, lambda d: (d.root / "train.txt").unlink(), "stop",
     r"train\.txt: not readable as a split list"),
    ("list-empty", "a split list is empty", BOTH, lambda d: (d.root / "test.txt").write_text("# none\n"), "stop",
     "lists no sequence"),
    ("list-outside", "a split list leaves the data set (`../..`)", BOTH,
     lambda d: (d.root / "train.txt").write_text("../secret\n"), "stop", "leaves the data set's root"),
    ("list-twice", "a split list names a sequence twice", BOTH,
     lambda d: (d.root / "train.txt").write_text(f"{BAD[d.kind]}\n" * 2), "stop", "is listed already in line 1"),
    ("list-link", "a split list names a sequence twice, once through a link", BOTH,
     lambda d: ((d.root / "linked").symlink_to(d.bad.parent if d.kind == "egopw" else d.bad),
                (d.root / "train.txt").write_text(
                    f"{BAD[d.kind]}\nlinked{'/one' if d.kind == 'egopw' else ''}\n")), "stop",
     r"train\.txt, line 2: .* is listed already in line 1, as .*: both are the same folder"),
    ("list-utf16", "a split list is UTF-16 without its mark", BOTH,
     lambda d: (d.root / "train.txt").write_bytes(f"{BAD[d.kind]}\n".encode("utf-16-le")), "stop",
     r"train\.txt, line 1: .*UTF-16"),
    ("list-elsewhere", "a split list has another machine's absolute paths, backslashes, `/imgs` and UTF-16", BOTH,
     lambda d: (d.root / "train.txt").write_text(
         "".join(f"X:\\data\\{name}\\imgs\n".replace("/", "\\") for name in (BAD[d.kind], GOOD[d.kind][0])), "utf-16")
     and None, "fine", ""),
    ("list-file", "two sequences would be kept in one file (`a/b__c` and `a__b/c`)", ("egopw",),
     lambda d: (d.write("x/y__z", 5), d.write("x__y/z", 6), (d.root / "train.txt").write_text("x/y__z\nx__y/z\n")),
     "stop", "would be kept in one file"),
    ("list-shared", "a sequence is in both lists", BOTH,
     lambda d: (d.root / "test.txt").write_text(f"{BAD[d.kind]}\n"), "stop", "both the training and the test list"),
    ("list-actor", "an actor is in both lists", BOTH,
     lambda d: (d.write("good/two" if d.kind == "egopw" else "good2", 5),
                (d.root / "test.txt").write_text("good/two\n" if d.kind == "egopw" else "good2\n")), "stop",
     "actors in both the training and the test list: good"),
    ("calibration-missing", "the calibration is missing", BOTH, lambda d: d.calibration.unlink(), "stop",
     r"camera\.json: no such calibration file"),
    ("calibration-text", "the calibration is no JSON", BOTH, lambda d: d.calibration.write_text("size = 3"), "stop",
     r"camera\.json: not readable as JSON"),
    ("calibration-field", "the calibration lacks a polynomial", BOTH,
     lambda d: d.calibration.write_text(json.dumps({k: v for k, v in CALIBRATION.items() if k != "polynomialW2C"})),
     "stop", r"camera\.json: no field 'polynomialW2C'"),
    ("calibration-nan", "the calibration holds NaN", BOTH, calibration(polynomialC2W=[float("nan"), 0.0]), "stop",
     r"camera\.json: field 'polynomialC2W'"),
    ("calibration-contradiction", "the calibration's two polynomials contradict each other", BOTH,
     calibration(polynomialW2C=CALIBRATION["polynomialW2C"][::-1]), "stop", r"camera\.json: .*contradict each other"),
    ("calibration-mark", "the calibration begins with a byte-order mark", BOTH,
     lambda d: d.calibration.write_text("\ufeff" + json.dumps(CALIBRATION), "utf-8") and None, "fine", ""),
    ("calibration-other", "the calibration is of another camera: the frames' image circle lies elsewhere", BOTH,
     round_frames, "warned", "camera.json may be of another camera"),
    ("calibration-size", "the calibration is of another image size", BOTH,
     calibration(size=[640, 512], imageCircleRadius=40), "stop",
     "no usable sequence"),
    ("too-many", "more than `prepare.max_skipped` of the frames are spoilt", BOTH,
     lambda d: [d.image(n).write_bytes(b"") for n in range(1, 10)], "stop-0.2", r"a share of 0\.\d+ above max_skipped"),
    ("too-many-failed", "more than `prepare.max_skipped` of the frames are of sequences that failed", BOTH,
     lambda d: d.annotations.unlink(), "stop-0.2", r"10 frames of 1 sequences that failed: .*no annotation file"),
    ("out-file", "the output's place is taken by a file", BOTH, lambda d: (d.root / "out").write_text("mine"), "stop",
     "out"),
]  # fmt: skip
CASES = [pytest.param(kind, *fault, id=f"{fault[0]}-{kind}") for fault in FAULTS for kind in fault[2]]
SEEN = {
    "frame": "the frame is left out and counted under its reason; all others are kept",
    "sequence": "the sequence is left out and reported with the file and the reason; all others are kept",
    "stop": "the run stops with an error that names the file; nothing half-prepared is taken for data",
    "stop-0.2": "the run stops with the counts by reason",
    "fine": "nothing: it is no fault",
    "warned": "a warning that names the calibration and both circles; all frames are kept",
}


@pytest.mark.parametrize(("kind", "name", "what", "kinds", "make", "outcome", "said"), CASES)
def test_fault(tmp_path, kind, name, what, kinds, make, outcome, said):
    data = Layout(tmp_path, kind)
    make(data)
    if outcome.startswith("stop"):
        share = float(outcome.partition("-")[2] or 0.5)
        with pytest.raises((DatasetError, CalibrationError, OSError)) as caught:
            data.prepare(max_skipped=share)
        assert re.search(said, str(caught.value)), str(caught.value)
        # Nothing that could be taken for a prepared data set is left.
        with pytest.raises((DatasetError, OSError)):
            read_prepared(tmp_path / "out", "train")
        return
    with pytest.warns(UserWarning, match=said) if outcome == "warned" else nullcontext():
        report = data.prepare()
    kept = {s.name: len(s) for split in ("train", "test") for s in read_prepared(tmp_path / "out", split)}
    assert {kept[good] for good in GOOD[kind]} == {FRAMES}, "a good sequence lost frames"
    skipped, failed = report["train"]["skipped"].get(BAD[kind], {}), report["train"]["failed"]
    if outcome == "sequence":
        assert BAD[kind] not in kept and list(failed) == [BAD[kind]]
        assert re.search(said, failed[BAD[kind]]), failed
        assert "bad" in failed[BAD[kind]], "the message does not name the file"
    elif outcome == "frame":
        faults = Counter({k: v for k, v in skipped.items() if k != "no annotation"})
        assert faults.total() == 1 and re.search(said, next(iter(faults))), skipped
        # A repeated annotation costs no frame.
        assert kept[BAD[kind]] == FRAMES - (name != "repeated") and not failed
    else:
        lost = 2 * (name == "gap")
        assert kept[BAD[kind]] == FRAMES - lost and not failed and set(skipped) <= {"no annotation"}
        numbers = next(s for s in read_prepared(tmp_path / "out", "train") if s.name == BAD[kind]).frame_numbers
        assert (np.diff(numbers) > 0).all()


# --- beyond the data sets --------------------------------------------------------------------------------------------

ELSEWHERE = []  # (what is wrong, where, what the user sees and what is kept, test)


def fault(what, where, seen):
    def add(test):
        ELSEWHERE.append((what, where, seen, test))
        return test

    return add


@contextmanager
def full_disk(kibibytes):
    """As on a disk that fills up: every write beyond that size of a file fails, for whatever library writes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kibibytes * 1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def read_only(folder):
    """Nobody may write there, nor may root, who is made somebody else for a while."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def left_in(folder):
    """Names of all files below a folder, hidden and unfinished ones too."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


NAMED = "the run stops with an error that names the setting"
KEPT = "the run stops with an error that names the file; what was there before is kept, nothing half-written is left"
AGAIN = "the run stops with an error that names the file, and the stage to run again"


@fault("a setting that is not known", "`params.yaml`", NAMED)
def _(kit):
    kit.raw["pose"]["learning_rate"] = 1
    with pytest.raises(params.SettingsError, match=r"params\.yaml: pose\.learning_rate is not a setting; known here"):
        params.from_dict(kit.raw)


@fault("a setting is missing", "`params.yaml`", NAMED)
def _(kit):
    del kit.raw["window"]["length"]
    with pytest.raises(params.SettingsError, match=r"params\.yaml: window\.length is missing"):
        params.from_dict(kit.raw)


@fault("a setting is infinite", "`params.yaml`", NAMED)
def _(kit):
    kit.raw["pose"]["lr"] = float("inf")
    with pytest.raises(params.SettingsError, match=r"params\.yaml: pose\.lr is inf; expected a number above 0"):
        params.from_dict(kit.raw)


@fault("a setting refers to another one (`*name`)", "`params.yaml`", NAMED)
def _(kit):
    (kit.folder / "params.yaml").write_text("seed: &a 1\nheatmap: *a\n")
    with pytest.raises(params.SettingsError, match=r"params\.yaml: not readable as YAML .*reference"):
        params.load(kit.folder / "params.yaml")


@fault("the heatmap network is of another joint count", "weights", AGAIN.partition(",")[0])
def _(kit):
    path = kit.folder / "heatmap_net.safetensors"
    weights.save(path, HeatmapNet(num_joints=17, fpn_channels=(8, 8, 8, 8)), {"fpn_channels": [8, 8, 8, 8]})
    with pytest.raises(WeightsError, match=r"heatmap_net\.safetensors does not fit: .*\(17, .*expected \(15, "):
        load_heatmap_net(path)


@fault("`window.length` (T) or `window.step` is not that of the trained model", "weights", NAMED)
def _(kit):
    path = kit.folder / "model.safetensors"
    trained = params.from_dict(kit.raw).window
    weights.save(path, torch.nn.Linear(1, 1), {"window": asdict(trained)})
    for name in ("length", "step"):
        kit.raw["window"][name] = 16
        with pytest.raises(WeightsError, match=rf"model\.safetensors was trained with window\.{name} = [18], .*has 16"):
            load_model(path, params.from_dict(kit.raw).window)
        kit.raw["window"][name] = getattr(trained, name)
    kit.raw["window"]["stride"] = 2  # how densely the windows lie may be chosen anew
    with pytest.raises(KeyError, match="fpn_channels"):
        load_model(path, params.from_dict(kit.raw).window)


@fault("weights are cut off", "weights", "the run stops with an error that names the file")
def _(kit):
    path = kit.folder / "w.safetensors"
    weights.save(path, torch.nn.Linear(9, 9), {})
    os.truncate(path, path.stat().st_size - 40)
    with pytest.raises(WeightsError, match=r"w\.safetensors cannot be read as weights"):
        weights.load(path)


@fault("the settings beside the weights are missing", "weights", "the run stops with an error that names the file")
def _(kit):
    weights.save(kit.folder / "w.safetensors", torch.nn.Linear(9, 9), {})
    (kit.folder / "w.json").unlink()
    with pytest.raises(WeightsError, match=r"w\.json, the settings of w\.safetensors, cannot be read"):
        weights.load(kit.folder / "w.safetensors")


@fault("weights hold Python objects, which can run code", "weights", "the run stops with an error that names the file")
def _(kit):
    for name, content in (("w.pth", {"w": Fraction(1, 3)}), ("m.pth", torch.nn.Linear(2, 2))):
        torch.save(content, kit.folder / name)
        with pytest.raises(
            WeightsError, match=rf"{name} cannot be read as weights: beside tensors .*\((fractions|torch)"
        ) as caught:
            read_checkpoint(kit.folder / name)
        assert "weights_only" not in str(caught.value)  # PyTorch's own message advises to run it
    for content in (b"<html>Sign in</html>" * 9, b"", pickle.dumps({"a": 1})):
        (kit.folder / "w.pth").write_bytes(content)
        with pytest.raises(
            WeightsError, match=r"w\.pth cannot be read as weights: it is damaged, or of another kind"
        ) as caught:
            read_checkpoint(kit.folder / "w.pth")
        assert "weights_only" not in str(caught.value)


@fault("a prepared file is cut off", "prepared data", AGAIN)
def _(kit):
    os.truncate(kit.prepared, kit.prepared.stat().st_size - 40)
    with pytest.raises(DatasetError, match=r"s\.h5: not readable as HDF5.*dvc repro prepare"):
        PreparedSequence(kit.prepared)


@fault("a prepared file has joints of another type or number", "prepared data", AGAIN)
def _(kit):
    for joints in (np.zeros((6, 15, 3)), np.zeros((6, 17, 3), np.float32), np.zeros((5, 15, 3), np.float32)):
        with h5py.File(kit.prepared, "a") as file:
            del file["joints_3d"]
            file["joints_3d"] = joints
        with pytest.raises(DatasetError, match=r"s\.h5: .*joints_3d is float.*expected float32 .*dvc repro prepare"):
            PreparedSequence(kit.prepared)


@fault("a stored frame is damaged", "prepared data", AGAIN)
def _(kit):
    with h5py.File(kit.prepared, "a") as file:
        file["jpeg"][: file["offsets"][1]] = 0
    sequence = PreparedSequence(kit.prepared)
    with pytest.raises(DatasetError, match=r"s\.h5: frame 0 does not decode.*dvc repro prepare"):
        sequence.images([0])


@fault("the network disk refuses a lock, or fails", "prepared data and features",
       "the run stops with an error that says so, and not that the file is damaged")  # fmt: skip
def _(kit):
    store_features(kit.folder, kit.model, [kit.sequence], limit_gb=1)
    locked = OSError(errno.ENOLCK, "unable to lock file, errno = 37, error message = 'No locks available'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py, "File", mock.Mock(side_effect=locked))
        for error, read in (
            (DatasetError, lambda: PreparedSequence(kit.prepared)),
            (FeatureError, lambda: open_features(kit.folder, [kit.sequence])),
        ):
            with pytest.raises(error, match=r"\.h5: .*No locks available.*the disk's or the network's doing") as caught:
                read()
            assert "dvc repro" not in str(caught.value)


@fault("the preparation did not end", "prepared data", AGAIN)
def _(kit):
    with pytest.raises(DatasetError, match=r"splits\.json: missing.*dvc repro prepare"):
        read_prepared(kit.folder, "train")


@fault("a feature file is cut off", "features", AGAIN)
def _(kit):
    store_features(kit.folder, kit.model, [kit.sequence], limit_gb=1)
    path = feature_file(kit.folder, kit.sequence)
    os.truncate(path, path.stat().st_size - 40)
    with pytest.raises(FeatureError, match=rf"{path.name}: no readable features.*dvc repro features"):
        open_features(kit.folder, [kit.sequence])


@fault("features are of another preparation", "features", AGAIN)
def _(kit):
    store_features(kit.folder, kit.model, [kit.sequence], limit_gb=1)
    path = feature_file(kit.folder, kit.sequence)
    kit.sequence.content = "0" * 64
    with pytest.raises(FeatureError, match=rf"{path.name}: features of another preparation .*run `dvc repro features`"):
        open_features(kit.folder, [kit.sequence])


@fault("the features did not end", "features", AGAIN)
def _(kit):
    store_features(kit.folder, kit.model, [kit.sequence], limit_gb=1)
    with pytest.raises(KeyboardInterrupt):
        store_features(kit.folder, Interrupted(kit.model), [kit.sequence, kit.sequence], limit_gb=1)
    with pytest.raises(FeatureError, match=r"features\.json: not readable.*dvc repro features"):
        open_features(kit.folder, [kit.sequence])


@fault("kept poses are cut off, or of other sequences", "poses", AGAIN.replace("the stage", "what"))
def _(kit):
    path = kit.folder / "egopw.npz"
    save_poses(path, [np.zeros((5, 15, 3))])
    with pytest.raises(ValueError, match=r"egopw\.npz: poses of sequences of \[5\] frames, expected \[6\]; run `dvc"):
        load_poses(path, [kit.sequence])
    save_poses(path, [np.zeros((6, 15, 3))])
    assert load_poses(path, [kit.sequence])[0].shape == (6, 15, 3)
    os.truncate(path, path.stat().st_size - 40)
    with pytest.raises(ValueError, match=r"egopw\.npz: not readable as poses .*run `dvc repro`"):
        load_poses(path, [kit.sequence])


UNFINISHED = (
    "the run stops with an error that names the file; what is not whole is refused, nothing half-written is left"
)


@fault("no room on the disk", "preparation", UNFINISHED)
def _(kit):
    data = Layout(kit.folder / "set", "egopw")
    with pytest.raises(OSError, match=r"bad__one\.h5: could not be written"), full_disk(4):
        data.prepare()
    assert left_in(data.root / "out") == []
    with pytest.raises(DatasetError, match="not completely prepared"):
        read_prepared(data.root / "out", "train")


@fault("no room on the disk", "features", UNFINISHED)
def _(kit):
    with pytest.raises(OSError, match=r"s\.h5: could not be written"), full_disk(8):
        store_features(kit.folder, kit.model, [kit.sequence], limit_gb=1)
    assert left_in(kit.folder) == ["s.h5"]  # the prepared file
    with pytest.raises(FeatureError, match=r"features\.json: not readable.*dvc repro features"):
        open_features(kit.folder, [kit.sequence])


@fault("no room on the disk", "weights", KEPT)
def _(kit):
    path = kit.folder / "w.safetensors"
    weights.save(path, torch.nn.Linear(3, 3), {"run": "first"})
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"w\.safetensors"), full_disk(4):
        weights.save(path, torch.nn.Linear(99, 99), {"run": "second"})
    assert path.read_bytes() == before and weights.load(path)[1] == {"run": "first"}
    assert left_in(kit.folder) == ["s.h5", "w.json", "w.safetensors"]


@fault("no room on the disk", "poses and metrics", KEPT)
def _(kit):
    write_metrics(kit.folder / "a.json", {"mpjpe_mm": 1.0})
    save_poses(kit.folder / "a.npz", [np.zeros((6, 15, 3))])
    before = {name: (kit.folder / name).read_bytes() for name in left_in(kit.folder)}
    with full_disk(4):
        with pytest.raises(OSError, match=r"a\.json"):
            write_metrics(kit.folder / "a.json", {str(i): 1.0 for i in range(1000)})
        with pytest.raises(OSError, match=r"a\.npz"):
            save_poses(kit.folder / "a.npz", [np.ones((60, 15, 3))])
    assert {name: (kit.folder / name).read_bytes() for name in left_in(kit.folder)} == before


@fault("a metric is NaN", "metrics", "the run stops with an error; the metrics that were there before are kept")
def _(kit):
    write_metrics(kit.folder / "a.json", {"mpjpe_mm": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_metrics(kit.folder / "a.json", {"mpjpe_mm": float("nan")})
    assert json.loads((kit.folder / "a.json").read_text()) == {"mpjpe_mm": 1.0}


@fault("a read-only folder", "preparation", KEPT)
def _(kit):
    with TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        data = Layout(folder, "egopw")
        for place in (data.root, *data.root.rglob("*")):
            place.chmod(0o755 if place.is_dir() else 0o644)
        with read_only(data.root), pytest.raises(PermissionError, match="/out"):
            data.prepare()
        assert not (data.root / "out").exists()


@fault("a read-only folder", "weights, poses and metrics", KEPT)
def _(kit):
    with TemporaryDirectory() as folder:
        place = Path(folder)
        write_metrics(place / "a.json", {"mpjpe_mm": 1.0})
        before = left_in(place)
        with read_only(place):
            for write in (
                lambda: write_metrics(place / "a.json", {"mpjpe_mm": 2.0}),
                lambda: save_poses(place / "a.npz", [np.zeros((6, 15, 3))]),
                lambda: weights.save(place / "a.safetensors", torch.nn.Linear(3, 3), {}),
            ):
                with pytest.raises(PermissionError, match=folder):
                    write()
        assert left_in(place) == before and json.loads((place / "a.json").read_text()) == {"mpjpe_mm": 1.0}


class Interrupted:
    """A model of which someone stops the second call."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def parameters(self):
        return self.model.parameters()

    def frozen_features(self, images):
        self.calls += 1
        if self.calls == 3:  # the first one only measures
            raise KeyboardInterrupt
        return self.model.frozen_features(images)


@pytest.fixture
def kit(tmp_path, raw_settings, make_sequence, tiny_model, request):
    """What the faults beyond the data sets are made in: a folder, settings, a prepared file of 6 frames, a model."""
    place = f"kit{len(request.node.name)}{abs(hash(request.node.name))}"
    source = make_sequence(f"{place}/s", range(6), actions=["walk"])
    prepared = tmp_path / "s.h5"
    prepared.write_bytes(source.path.read_bytes())
    model = tiny_model("no_motion").eval()
    return SimpleNamespace(folder=tmp_path, raw=raw_settings, prepared=prepared, sequence=source, model=model)


@pytest.mark.parametrize("test", [f[3] for f in ELSEWHERE], ids=[f"{f[0]}, {f[1]}" for f in ELSEWHERE])
def test_fault_elsewhere(kit, test):
    test(kit)


def test_the_page_lists_every_fault():
    rows = re.findall(r"^\| (?!what is wrong|---)(.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    names = {"egopw": "EgoPW", "sceneego": "SceneEgo"}
    expected = [
        (what, " and ".join(names[k] for k in kinds), SEEN[outcome]) for _, what, kinds, _, outcome, _ in FAULTS
    ]
    assert rows == expected + [row[:3] for row in ELSEWHERE]
