"""docs/bad-input.md, row by row: each fault is made in a small data set; what the user sees and keeps is what it says.

Faults of one frame or one sequence are counted and cost no more than themselves; faults of the whole stop the run with
one readable error. The data sets are prepared as `01_data_preparation` does.
"""

import json
import os
import pickle
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from agego_lib.camera import CalibrationError
from agego_lib.datasets import DatasetError, prepare_dataset, read_prepared

PAGE = Path(__file__).resolve().parents[1] / "docs/bad-input.md"
SIZE, FRAMES = (96, 80), 10
CALIBRATION = {
    "size": list(SIZE),
    "intrinsic": [[1, 0, 48.0, 0], [0, 1, 40.0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "polynomialC2W": [-24.0, 0.0, 0.012],
    "polynomialW2C": [40.0, 29.0, 6.0],
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


def not_for_reading(path):
    """A folder where a file is expected: unreadable for every user, root too."""
    path.unlink()
    path.mkdir()


# (id, what is wrong, kinds, how it is made, outcome, what is said). Outcomes: "frame": that frame is left out and
# counted under the reason; "sequence": that sequence is left out and reported; "stop": the run ends with the error;
# "fine": it is no fault.
BOTH = ("egopw", "sceneego")
FAULTS = [
    ("image-missing", "a frame's image is missing", BOTH, lambda d: d.image(3).unlink(), "frame", "missing on disk"),
    ("image-empty", "an image file is empty", BOTH, lambda d: d.image(3).write_bytes(b""), "frame", "empty file"),
    ("image-truncated", "an image is cut off", BOTH, truncated, "frame", "truncated JPEG"),
    ("image-text", "an image file holds text", BOTH, lambda d: d.image(3).write_text("<html>" * 50), "frame",
     "not a JPEG"),
    ("image-huge", "an image's header claims 60,000 × 60,000 px", BOTH, huge_header, "frame",
     "JPEG does not decode"),
    ("image-size", "one image has another size than the calibration", BOTH, jpeg(3, (64, 64)), "frame",
     "wrong size"),
    ("image-folder", "a folder stands in an image's place", BOTH, lambda d: not_for_reading(d.image(3)), "frame",
     "missing on disk"),
    ("pose-none", "a frame has no pose", BOTH, lambda d: d.pose(3, None), "frame", "is None"),
    ("pose-nan", "a pose holds NaN", BOTH, lambda d: d.pose(3, np.full((15, 3), np.nan)), "frame",
     "NaN or infinite"),
    ("pose-infinite", "a pose holds infinity", BOTH, lambda d: d.pose(3, np.full((15, 3), np.inf)), "frame",
     "NaN or infinite"),
    ("pose-shape", "a pose has 16 joints", BOTH, lambda d: d.pose(3, np.zeros((16, 3))), "frame", r"not \(15, 3\)"),
    ("pose-text", "a pose is a text", BOTH, lambda d: d.pose(3, "0 0 0"), "frame", r"not \(15, 3\)"),
    ("pose-flat", "a pose is a flat list of 45 numbers", BOTH, lambda d: d.pose(3, [0.0] * 45), "frame",
     r"not \(15, 3\)"),
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
    ("calibration-size", "the calibration is of another image size", BOTH, calibration(size=[640, 512]), "stop",
     "no usable sequence"),
    ("too-many", "more than `prepare.max_skipped` of the frames are spoilt", BOTH,
     lambda d: [d.image(n).write_bytes(b"") for n in range(1, 10)], "stop-0.2", r"a share of 0\.\d+ above max_skipped"),
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


def test_the_page_lists_every_fault():
    rows = re.findall(r"^\| (?!what is wrong|---)(.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    expected = [(what, " and ".join({"egopw": "EgoPW", "sceneego": "SceneEgo"}[k] for k in kinds), SEEN[outcome])
                for _, what, kinds, _, outcome, _ in FAULTS]  # fmt: skip
    assert rows[: len(expected)] == expected
    assert len(expected) >= 40
