"""GlobalEgoMocap and Mo2Cap2, written in their layouts, against a reader and an alignment that are written anew."""

import io
import json
import os
import pickle
import re
import signal
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from conftest import CAMERA, SIZE
from scipy.io import loadmat, savemat
from scipy.spatial.transform import Rotation

from agego_lib import evaluate
from agego_lib.camera import InputView
from agego_lib.datasets import DatasetError, prepare_dataset, read_prepared
from agego_lib.datasets.mocap import TAKES, Take, read_globalegomocap, read_mo2cap2, read_mocap
from agego_lib.evaluation import predict_split
from agego_lib.images import to_tensor
from agego_lib.models.build import load_model, save_model
from agego_lib.params import WindowSettings
from agego_lib.skeleton import BONES, COMMON_BONE_LENGTHS, PARENTS
from agego_view import paper

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED = Path(__file__).resolve().parents[2] / "shared"
SMALL = {
    "globalegomocap": {
        "jian3": Take("jian", 3, 13),
        "studio-jian1": Take("jian", 1, 6),
        "studio-lingjie1": Take("lingjie", 2, 9),
    },
    "mo2cap2": {"weipeng_studio": Take("weipeng", 0, 9), "olek_outdoor": Take("olek", 0, 7)},
}


def people(count, seed):
    """(count, 15, 3) m: bones about as long as the common skeleton's in any direction, anywhere in a studio."""
    rng, poses = np.random.default_rng(seed), np.zeros((count, 15, 3))
    for pose in poses:
        pose[0] = rng.uniform(-20, 20, 3)
        for (parent, child), length in zip(BONES, COMMON_BONE_LENGTHS, strict=True):
            bone = rng.normal(size=3)
            pose[child] = pose[parent] + bone * (length * rng.uniform(0.8, 1.2) / np.linalg.norm(bone))
    return poses


def picture(number):
    image = np.full((SIZE[1], SIZE[0], 3), 20, np.uint8)
    cv2.circle(image, (80, 64), 62, (90, 120, 150 + number), -1)
    cv2.circle(image, (50 + 3 * number, 40 + number), 9, (250, 30, 60), -1)
    return image


def write_images(folder, count, name="img_{:06d}.jpg", first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        cv2.imwrite(str(folder / name.format(number + first)), picture(number))


def write_set(root, kind):
    """A test set with the takes of SMALL. GlobalEgoMocap: recordings that go on. Mo2Cap2: as its authors publish it."""
    for seed, (name, take) in enumerate(SMALL[kind].items()):
        poses = people(take.stop - take.start, seed)
        if kind == "globalegomocap":
            write_images(root / name / "imgs", take.stop + 4)
            (root / name / f"{name.removeprefix('studio-')}.pkl").write_bytes(pickle.dumps(list(poses)))
        else:
            # More poses than images; numbers are the recording's, some with a digit more than others.
            write_images(root / name, take.stop, "fc2_save_2017-10-26-153303-{}.jpg", first=96)
            savemat(root / f"{name}_gt.mat", {"pose_gt": np.concatenate([poses, people(5, 9)]) * 1000})
    return root


@pytest.fixture
def globalegomocap(tmp_path):
    return write_set(tmp_path / "set", "globalegomocap")


@pytest.fixture
def mo2cap2(tmp_path):
    return write_set(tmp_path / "set", "mo2cap2")


@pytest.fixture(params=SMALL)
def kind_and_root(request, tmp_path):
    return request.param, write_set(tmp_path / "set", request.param)


# --- Readers --------------------------------------------------------------------------------------------------------


def test_published_ranges():
    counts = {kind: {name: t.stop - t.start for name, t in takes.items()} for kind, takes in TAKES.items()}
    assert sum(counts["globalegomocap"].values()) == 12_200
    assert counts["mo2cap2"] == {"weipeng_studio": 2902, "olek_outdoor": 2744}
    assert (3288 - 386, 2901 - 157) == (2902, 2744)
    assert {take.actor for take in TAKES["globalegomocap"].values()} == {"jian", "lingjie"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="no description of the formats here")
def test_published_ranges_as_they_are_described():
    text = (SHARED / "formats.md").read_text()
    for name, take in TAKES["globalegomocap"].items():
        assert f"{name} {take.start} to {take.stop}" in text
    for method, _, value in paper.MOCAP["globalegomocap"]:
        assert f"{method} {value}" in text


@pytest.mark.parametrize("kind", TAKES)
def test_a_set_of_the_published_size(tmp_path, kind):
    """As many files as there are, all of them one, and each pose with its own frame."""
    one, root, poses = tmp_path / "one.jpg", tmp_path / "set", {}
    cv2.imwrite(str(one), picture(0))
    for name, take in TAKES[kind].items():
        imgs = root / name / "imgs"
        imgs.mkdir(parents=True)
        for position in range(take.stop + (7 if kind == "globalegomocap" else 0)):
            os.link(one, imgs / f"img_{position:06d}.jpg")
        poses[name] = people(1, 0) + np.arange(take.stop - take.start)[:, None, None] / 1000
        if kind == "globalegomocap":
            (root / name / "poses.pkl").write_bytes(pickle.dumps(list(poses[name])))
        else:
            savemat(root / name / "gt.mat", {"pose_gt": poses[name] * 1000})
    sequences = read_mocap(kind, root)
    assert [s.name for s in sequences] == [*TAKES[kind]]
    assert sum(map(len, sequences)) == {"globalegomocap": 12_200, "mo2cap2": 2902 + 2744}[kind]
    for sequence in sequences:
        take = TAKES[kind][sequence.name]
        assert sequence.frame_names == [f"img_{n:06d}.jpg" for n in range(take.start, take.stop)]
        np.testing.assert_allclose(sequence.joints_3d, poses[sequence.name], atol=1e-5)
        assert not sequence.skipped and not sequence.notes and sequence.actor == take.actor


def test_against_a_reader_of_its_own(kind_and_root):
    kind, root = kind_and_root
    for sequence, (name, take) in zip(read_mocap(kind, root, SMALL[kind]), SMALL[kind].items(), strict=True):
        if kind == "globalegomocap":
            (file,) = (root / name).glob("*.pkl")
            poses, images, notes = pickle.loads(file.read_bytes()), root / name / "imgs", []
        else:
            poses, images = loadmat(root / f"{name}_gt.mat")["pose_gt"] / 1000, root / name
            notes = [f"{root / name}_gt.mat: its last 5 poses, beyond the frames that count, were left out"]
        names = sorted(os.listdir(images), key=lambda n: int(re.findall("[0-9]+", n)[-1]))[take.start : take.stop]
        assert sequence.frame_names == names and sequence.name == name and sequence.dataset == kind
        for row, pose in enumerate(poses[: len(names)]):
            np.testing.assert_allclose(sequence.joints_3d[row], pose, rtol=1e-6, atol=1e-6)
        assert np.isnan(sequence.joints_2d).all() and not sequence.skipped and sequence.notes == notes


def test_natural_order_and_odd_files(globalegomocap):
    """Names of several parts, whose numbers differ in length: no count of frames, but still an order."""
    folder, take = globalegomocap / "jian3", Take("jian", 1, 4)
    for path in (folder / "imgs").iterdir():
        path.unlink()
    for name in ("b2_t9.jpg", "b2_t10.PNG", "b10_t1.jpeg", "a1_t100.jpg", "b2_t9.jpg.txt", ".hidden.jpg", "Thumbs.db"):
        (folder / "imgs" / name).write_bytes(b"x")
    (folder / "jian3.pkl").write_bytes(pickle.dumps(list(people(3, 0))))
    sequence = read_globalegomocap(folder, take)
    assert sequence.frame_names == ["b2_t9.jpg", "b2_t10.PNG", "b10_t1.jpeg"]
    assert sequence.frame_numbers.tolist() == [1, 2, 3]
    assert sequence.notes == [f"{folder}/imgs: 1 files that are no images were left out (first: 'b2_t9.jpg.txt')"]


def test_frames_with_faults_are_counted_and_shift_no_other(globalegomocap, tmp_path):
    folder, take = globalegomocap / "jian3", SMALL["globalegomocap"]["jian3"]
    imgs, poses = folder / "imgs", list(people(10, 0))
    whole = read_globalegomocap(folder, take)
    (imgs / "img_000001.jpg").unlink()  # before those that count
    (imgs / "img_000004.jpg").unlink()
    (imgs / "img_000005.jpg").write_bytes(b"")
    cv2.imwrite(str(imgs / "img_6.png"), picture(6))
    (imgs / "img_000007.jpg").unlink()
    (imgs / "img_000007.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    cv2.imwrite(str(tmp_path / "elsewhere.jpg"), picture(7))
    poses[8 - 3], poses[9 - 3], poses[10 - 3] = np.full((15, 3), np.nan), np.zeros((17, 3)), None
    (folder / "jian3.pkl").write_bytes(pickle.dumps(poses))
    sequence = read_globalegomocap(folder, take)
    assert sequence.skipped == {
        "frame 4": "missing on disk",
        "img_000005.jpg": "empty file",
        "img_000006.jpg": "two files claim one frame number: img_000006.jpg and img_6.png; remove all but one",
        "img_000007.jpg": "link out of the data set",
        "img_000008.jpg": "pose holds NaN or infinite values",
        "img_000009.jpg": "pose is a float64 array of shape (17, 3), not (15, 3) numbers",
        "img_000010.jpg": "pose is a NoneType of another shape, not (15, 3) numbers",
    }
    assert sequence.frame_numbers.tolist() == [3, 11, 12]
    np.testing.assert_array_equal(sequence.joints_3d, whole.joints_3d[[0, 8, 9]])
    assert sequence.notes == [f"{imgs}: 2 numbers between the first and last image have none: taken for lost frames"]


def test_a_recording_without_its_first_frames_says_so(globalegomocap):
    folder = globalegomocap / "jian3"
    for n in range(3):
        (folder / "imgs" / f"img_{n:06d}.jpg").unlink()
    sequence = read_globalegomocap(folder, SMALL["globalegomocap"]["jian3"])
    assert sequence.frame_names[0] == "img_000006.jpg"
    assert "images are numbered from 3, which is taken for the first of the recording" in sequence.notes[0]


def version_7_3(path, **arrays):
    """As MATLAB writes HDF5: its own header in the first 512 bytes, axes the other way round."""
    data = io.BytesIO()
    with h5py.File(data, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.T, compression="gzip")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + data.getvalue()[len(header) :])


def test_version_7_3(mo2cap2):
    path, folder, take = mo2cap2 / "weipeng_studio_gt.mat", mo2cap2 / "weipeng_studio", Take("weipeng", 0, 9)
    before, poses = read_mo2cap2(folder, take, mo2cap2), loadmat(path)["pose_gt"]
    version_7_3(path, pose_gt=poses)
    with pytest.raises(NotImplementedError):  # it is what it says
        loadmat(path)
    np.testing.assert_array_equal(read_mo2cap2(folder, take, mo2cap2).joints_3d, before.joints_3d)
    version_7_3(path, pose_gt=poses.swapaxes(0, 2))
    with pytest.raises(DatasetError, match=r"'pose_gt' has the shape \(3, 15, 14\), expected \(N, 15, 3\)"):
        read_mo2cap2(folder, take, mo2cap2)
    version_7_3(path, other=poses)
    with pytest.raises(DatasetError, match="no array 'pose_gt' in it, but 'other'"):
        read_mo2cap2(folder, take, mo2cap2)
    with h5py.File(path, "a") as file:
        file["pose_gt"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(DatasetError, match="no array 'pose_gt'"):
        read_mo2cap2(folder, take, mo2cap2)


class Code:
    def __reduce__(self):
        return os.mkdir, (str(Code.place),)


def repickle(value):
    return lambda root: (root / "jian3/jian3.pkl").write_bytes(pickle.dumps(value))


def resave(**arrays):
    return lambda root: savemat(root / "weipeng_studio_gt.mat", arrays)


def rewrite(data):
    return lambda root: (root / "weipeng_studio_gt.mat").write_bytes(data)


def image(root, number):
    return root / f"weipeng_studio/fc2_save_2017-10-26-153303-{number}.jpg"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: (r / "jian3").rename(r / "jian4"),
         r"set: no folder jian3; expected jian3, studio-jian1, studio-lingjie1, found jian4"),
        (lambda r: [p.unlink() for p in (r / "jian3/imgs").glob("*1?.jpg")],
         r"jian3/imgs: 10 images .*at least 13, of which those from 3 on"),
        (lambda r: (r / "jian3/imgs").rename(r / "jian3/images"), r"jian3: no imgs/, and 0 images in itself"),
        (lambda r: (r / "jian3/jian3.pkl").unlink(), r"jian3: no \*\.pkl with the poses"),
        (lambda r: (r / "jian3/old.pkl").write_bytes(b"x"), r"jian3: jian3\.pkl, old\.pkl; expected one \*\.pkl alone"),
        (repickle(list(people(9, 0))), r"jian3\.pkl: 9 poses, expected 10, one for each of the frames 3 to 13"),
        (repickle({"poses": 1}), r"jian3\.pkl: holds a dict; expected a list of \(15, 3\) poses"),
        (repickle(np.float64(3)), r"jian3\.pkl: holds a float64; expected a list"),
        (repickle([[1, 2], [3]] * 5), r"jian3\.pkl: no usable frame .*10 x pose is a list of another shape"),
        (lambda r: (r / "jian3/jian3.pkl").write_bytes(b"\x80\x04]"), r"jian3\.pkl: not a whole pickle"),
        (repickle([None] * 10), r"jian3\.pkl: no usable frame .*10 x pose is a NoneType"),
        (repickle(list(people(10, 0) * 1000)), r"jian3\.pkl: the bones .* measure 3\d\d\d m .*about 3\.6, a person's"),
        (repickle(list(people(10, 0) / 1000)), r"jian3\.pkl: the bones .* measure 0\.003\d* m together"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_globalegomocap(globalegomocap, change, said):
    change(globalegomocap)
    with pytest.raises(DatasetError, match=said):
        read_mocap("globalegomocap", globalegomocap, SMALL["globalegomocap"])


def test_a_pickle_runs_no_code(globalegomocap, tmp_path):
    Code.place = tmp_path / "ran"
    repickle([*people(9, 0), Code()])(globalegomocap)
    with pytest.raises(DatasetError, match=r"jian3\.pkl: this pickle asks for posix\.mkdir; refused"):
        read_mocap("globalegomocap", globalegomocap, SMALL["globalegomocap"])
    assert not Code.place.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: (r / "weipeng_studio_gt.mat").unlink(),
         r"weipeng_studio: no \*\.mat with the poses in it, or .*weipeng_studio_gt\.mat"),
        (lambda r: image(r, 96).unlink(), r"no imgs/, and 8 images .*expected 9, of"),
        (lambda r: cv2.imwrite(str(image(r, 105)), picture(0)), r"10 images .*expected 9, of"),
        (resave(pose_gt=people(8, 0) * 1000), r"weipeng_studio_gt\.mat: 8 poses, expected 9"),
        (resave(pose_gt=people(9, 0)), r"measure 0\.003\d* m together .*Mo2Cap2 as millimetres: check"),
        (resave(pose_gt=people(9, 0).transpose(1, 2, 0)), r"'pose_gt' has the shape \(15, 3, 9\), expected \(N, 15, 3"),
        (resave(pose_gt=np.full((9, 15, 3), "x", object)), r"'pose_gt' is of MATLAB's kind cell, expected numbers"),
        (resave(poses=people(9, 0)), r"no array 'pose_gt' in it, but 'poses'"),
        (rewrite(b"no MATLAB file at all" * 9), r"not readable as a MATLAB file"),
        (rewrite(b"MATLAB 7.3 MAT-file" + b" " * 900), r"not readable as a MATLAB file"),
        (rewrite(b""), r"not readable as a MATLAB file"),
        (lambda r: os.truncate(r / "weipeng_studio_gt.mat", 700), r"not readable as a MATLAB file .*download it again"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_mo2cap2(mo2cap2, change, said):
    change(mo2cap2)
    with pytest.raises(DatasetError, match=said):
        read_mocap("mo2cap2", mo2cap2, SMALL["mo2cap2"])


def test_a_matlab_file_that_declares_gigabytes(mo2cap2):
    """Only its header is followed, which says how many poses there would be."""
    path = mo2cap2 / "weipeng_studio_gt.mat"
    data, shape = path.read_bytes(), np.array([14, 15, 3], "<i4").tobytes()
    assert data.count(shape) == 1
    path.write_bytes(data.replace(shape, np.array([2**31 - 1, 15, 3], "<i4").tobytes()))
    with pytest.raises(DatasetError, match=r"shape \(2147483647, 15, 3\)"):
        read_mocap("mo2cap2", mo2cap2, SMALL["mo2cap2"])


def test_all_faults_at_once(tmp_path, globalegomocap):
    (globalegomocap / "jian3/jian3.pkl").unlink()
    (globalegomocap / "studio-lingjie1/lingjie1.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(DatasetError, match=r"jian3: no .*\n.*lingjie1\.pkl: 1 poses"):
        read_mocap("globalegomocap", globalegomocap, SMALL["globalegomocap"])
    with pytest.raises(DatasetError, match=r"nowhere: not readable .*sequences of Mo2Cap2: weipeng_studio, olek_out"):
        read_mocap("mo2cap2", tmp_path / "nowhere")
    # Another set's folder, by the published names.
    with pytest.raises(
        DatasetError, match=r"no folder weipeng_studio, olek_outdoor; .*found jian3, studio-jian1, studio-l"
    ):
        read_mocap("mo2cap2", globalegomocap)


# --- The command ----------------------------------------------------------------------------------------------------


def resized(pose):
    """Bone by bone from the neck: the common skeleton's lengths in the pose's directions."""
    result = [pose[0]]
    for joint in range(1, 15):
        bone = pose[joint] - pose[PARENTS[joint]]
        length = COMMON_BONE_LENGTHS[BONES.index((PARENTS[joint], joint))]
        result.append(result[PARENTS[joint]] + bone / np.linalg.norm(bone) * length)
    return np.array(result)


def aligned_error(pose, truth):
    """mm, after the best rotation, as SciPy finds it, and the best scale for that."""
    x, y = pose - pose.mean(0), truth - truth.mean(0)
    turned = Rotation.align_vectors(y, x)[0].apply(x)
    scale = (turned * y).sum() / (x * x).sum()
    return 1000 * np.linalg.norm(scale * turned - y, axis=-1).mean()


CONFIG = {
    "input": {"size": 64, "crop": "fovea"},
    "window": {"length": 4, "stride": 2, "step": 1, "max_gap": 5},
    "fpn_channels": [8, 8, 8, 8],
    "backbone": "resnet18",
    "motion": {"heads": 4, "depth": 1, "local_blocks": 1, "window": 3, "drop_path": 0.0},
    "decoder": {"layers": 1, "heads": 4, "input_scale": 10.0},
    "switches": {"use_motion": False},
}


@pytest.fixture
def command(tmp_path, tiny_model, monkeypatch):
    """Runs the command on a set -> (exit status, the results file's content or None)."""
    (tmp_path / "camera.json").write_text(CAMERA.to_json())
    save_model(tmp_path / "model.safetensors", tiny_model("no_motion"), CONFIG)
    for kind, takes in SMALL.items():
        monkeypatch.setitem(TAKES, kind, takes)

    def run(kind, root, *options):
        out = tmp_path / "results/of/it.json"
        given = {"--calibration": tmp_path / "camera.json", "--model": tmp_path / "model.safetensors", "--out": out}
        status = evaluate.main([kind, str(root), *(f"{k}={v}" for k, v in given.items()), "--device=cpu", *options])
        return status, json.loads(out.read_text()) if out.is_file() else None

    return run


def as_egopw(folder, kind, sequences, config):
    """Each frame and pose in EgoPW's layout, through the function of 01_data_preparation -> prepared sequences."""
    for sequence in sequences:
        entries, copy = [], folder / "egopw" / sequence.name / "it"
        (copy / "imgs").mkdir(parents=True)
        for n, (path, pose) in enumerate(zip(sequence.frame_paths, sequence.joints_3d, strict=True)):
            name = f"img_{n:06d}.jpg"
            (copy / "imgs" / name).write_bytes(path.read_bytes())
            entries.append({"image_name": name, "optimized_local_pose": pose - pose[0], "joints_2d": np.ones((15, 2))})
        (copy / "pseudo_gt.pkl").write_bytes(pickle.dumps(entries))
    for split, part in (("train", sequences[:1]), ("test", sequences[1:])):
        (folder / f"{split}.txt").write_text("\n".join(f"{sequence.name}/it" for sequence in part))
    lists = folder / "train.txt", folder / "test.txt"
    prepare_dataset("egopw", folder / "egopw", *lists, folder / "camera.json", folder / "out", **config["input"])
    return read_prepared(folder / "out", "train") + read_prepared(folder / "out", "test")


def test_the_command_against_the_pipeline(kind_and_root, command, tmp_path, capsys):
    """Frames and poses as the pipeline has them, and errors by a loop."""
    kind, root = kind_and_root
    status, result = command(kind, root)
    said = capsys.readouterr()
    assert status == 0 and result["complete"] and result["set"] == kind and not result["failed"]
    model, config = load_model(tmp_path / "model.safetensors")
    sequences, errors = read_mocap(kind, root), {"pa_mpjpe_mm": {}, "ba_mpjpe_mm": {}}
    predictions = predict_split(model, as_egopw(tmp_path, kind, sequences, config), WindowSettings(**config["window"]))
    for sequence, poses in zip(sequences, predictions, strict=True):
        pairs = list(zip(poses.astype(float), sequence.joints_3d.astype(float), strict=True))
        own = {
            "pa_mpjpe_mm": [aligned_error(p, t) for p, t in pairs],
            "ba_mpjpe_mm": [aligned_error(resized(p), resized(t)) for p, t in pairs],
        }
        take, row = SMALL[kind][sequence.name], result["sequences"][sequence.name]
        assert row["frames"] == take.stop - take.start == len(poses) and row["person"] == take.actor
        for key, values in own.items():
            assert row[key] == pytest.approx(np.mean(values), abs=0.02)  # the command folds BatchNorm
            errors[key].setdefault(take.actor, []).extend(values)
    for key, (first, second) in ((key, found.values()) for key, found in errors.items()):
        assert result[key] == pytest.approx(np.mean(first + second), abs=0.02)
        # Of two people, drawn twice, a quarter of all draws are the one alone, and a quarter the other.
        low, high = sorted((np.mean(first), np.mean(second)))
        between = result["interval_95"][key]
        assert between == {"low": pytest.approx(low, abs=0.02), "high": pytest.approx(high, abs=0.02)}
        assert f"{result[key]:.1f} ({between['low']:.1f} to {between['high']:.1f})" in said.out
    assert (
        not result["warnings"]
        and "measured here" in said.out
        and "published by their authors, not measured here" in said.out
    )
    assert ("EgoPW (CVPR 2022) 81.7" in said.out) == (kind == "globalegomocap")
    assert [p["pa_mpjpe_mm"] for p in result["published"]] == ([81.7, 76.5, 65.8] if kind == "globalegomocap" else [])
    assert "mpjpe_mm" not in result  # in axes that nobody knows
    assert result["made_with"]["input"] == CONFIG["input"] and len(result["made_with"]["model_sha256"]) == 16


def test_frames_are_seen_as_the_model_was_trained(globalegomocap, tiny_model):
    """What reaches the network is the view, through the store's JPEG."""
    (sequence, *_), seen = read_mocap("globalegomocap", globalegomocap, SMALL["globalegomocap"]), []
    model = tiny_model("no_motion").eval()
    frozen = model.frozen_features
    model.frozen_features = lambda images: (seen.append(images), frozen(images))[1]
    evaluate.evaluate("globalegomocap", [sequence], model, CONFIG, CAMERA)
    view, images = InputView.of(CAMERA, 64, "fovea"), torch.cat(seen)
    for path, found in zip(sequence.frame_paths, images, strict=True):
        _, data = cv2.imencode(".jpg", view.apply(cv2.imread(str(path))), [cv2.IMWRITE_JPEG_QUALITY, 95])
        square = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        torch.testing.assert_close(found, to_tensor(square[None])[0])


def test_damaged_frames_cost_no_run(globalegomocap, command, capsys):
    imgs = globalegomocap / "jian3/imgs"
    os.truncate(imgs / "img_000005.jpg", 600)
    cv2.imwrite(str(imgs / "img_000006.jpg"), np.zeros((99, 99, 3)))
    (imgs / "img_000008.jpg").unlink()
    for path in (globalegomocap / "studio-lingjie1/imgs").iterdir():
        path.write_bytes(b"GIF89a")
    status, result = command("globalegomocap", globalegomocap)
    said = capsys.readouterr()
    assert status == 1 and not result["complete"] and not result["interrupted"]
    row = result["sequences"]["jian3"]
    assert row["frames"] == 7 and row["skipped"] == {"missing on disk": 1, "truncated JPEG": 1, "wrong size": 1}
    assert "none of its 7 frames can be used" in result["failed"]["studio-lingjie1"]
    assert "skipped: jian3: 1 frames: truncated JPEG" in said.err and "error: studio-lingjie1: none of" in said.err
    assert "not the whole set, and no number to compare: studio-lingjie1 missing" in said.out


def test_ctrl_c_keeps_what_is_done(globalegomocap, command, capsys, monkeypatch):
    predicted = evaluate.predict_split

    def at_the_second(network, sequences, window, label):
        if sequences[0].name != "jian3":
            signal.raise_signal(signal.SIGINT)
        return predicted(network, sequences, window, label=label)

    monkeypatch.setattr(evaluate, "predict_split", at_the_second)
    status, result = command("globalegomocap", globalegomocap)
    assert status == 130 and result["interrupted"] and not result["complete"]
    assert result["not_run"] == ["studio-jian1", "studio-lingjie1"]
    (row,) = result["sequences"].values()
    assert row["frames"] == result["frames"] == 10 and result["people"] == 1
    assert all(result[key] == row[key] > 0 for key in evaluate.SHOWN)
    assert "no number to compare: studio-jian1, studio-lingjie1 missing" in capsys.readouterr().out
    # Stopped before the first is done, an earlier result stays.
    monkeypatch.setattr(evaluate, "predict_split", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert command("globalegomocap", globalegomocap) == (130, result)


def test_a_calibration_of_another_camera_is_told(globalegomocap, command, tmp_path, capsys):
    moved = json.loads(CAMERA.to_json())
    moved["intrinsic"][0][2] += 12
    (tmp_path / "moved.json").write_text(json.dumps(moved))
    _, result = command("globalegomocap", globalegomocap, f"--calibration={tmp_path / 'moved.json'}")
    assert "warning: moved.json may be of another camera" in capsys.readouterr().err
    assert len(result["warnings"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--calibration=none.json"], "none.json: no such calibration file"),
        (["--model=none.safetensors"], "none.safetensors"),
        (["--device=abacus"], "--device abacus: not usable here"),
        (["--out=/proc/x/results.json"], "/proc/x"),
        (["--out=."], ".: a folder; name a file with --out"),
    ],
)
def test_what_cannot_be_used_is_told_first(globalegomocap, command, options, said, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate", None)
    assert command("globalegomocap", globalegomocap, *options) == (1, None)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert command("mo2cap2", globalegomocap) == (1, None)
    assert "no folder weipeng_studio, olek_outdoor; expected" in capsys.readouterr().err
