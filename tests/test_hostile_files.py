"""Files made to harm: each is refused with an error that names it, within bounded time and memory, and runs no code.

Each stands where a user would put it, in a data set, among the prepared files, the settings or the weights.
"""

import io
import json
import os
import pickle
import pickletools
import resource
import signal
import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
import yaml
from test_bad_input import ANNOTATIONS, CALIBRATION, Layout

from agego_lib import params
from agego_lib.camera import CalibrationError, FisheyeCamera, read_camera
from agego_lib.datasets import DatasetError, PreparedSequence, read_prepared, safe_pickle
from agego_lib.datasets.features import FeatureError, feature_file, open_features
from agego_lib.models import weights
from agego_lib.models.backbone import WeightsError, read_checkpoint
from agego_lib.params import SettingsError

SECONDS, MEBIBYTES = 10, 400  # far from what honest small files take, and from what these would take


def _mapped():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@contextmanager
def bounded():
    """The block may take SECONDS of computing, and MEBIBYTES of memory more than the process has; or fails by it."""

    def stop(*_):
        raise TimeoutError(f"not refused within {SECONDS} s")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    if Path("/proc/self/statm").exists():
        resource.setrlimit(resource.RLIMIT_AS, (_mapped() + MEBIBYTES * 2**20, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(20 * SECONDS)  # for one that waits; other processes may have the processor
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_the_bounds_hold():
    with pytest.raises(MemoryError), bounded():
        bytearray(500 * 2**20)


def short_bytes(value, memo=b""):
    return b"C" + bytes([len(value)]) + value + memo


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


def call(module, attribute, *arguments):
    """Opcodes of a call of a global with arguments given as opcodes."""
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def laughs(levels, copies):
    """A list of lists of lists, each holding the one before `copies` times by reference."""
    data = b"]q\x00"
    for level in range(levels):
        data += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * (copies - 1) + b"eq" + bytes([level + 1])
    return data


def array(shape, data, dtype="f8"):
    """Opcodes of an array as NumPy 2 pickles it: empty, then filled."""
    kind = call("numpy", "dtype", text(dtype), b"\x89", b"\x88") + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xff" * 1
    kind += b"J\xff\xff\xff\xffK\x00tb"
    sides = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", side) for side in shape) + b"t"
    made = call("numpy._core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85", short_bytes(b"b"))
    return made + b"(K\x01" + sides + kind + b"\x89" + data + b"tb"


BIG = b"B" + struct.pack("<I", 2**22) + bytes(2**22)  # 4 MiB of bytes
F4 = call("numpy", "dtype", text("f4"), b"\x89", b"\x88")
PICKLES = {
    "lists without a container": b"]" * 300_000 + b"a" * 299_999,
    "lists nested 100 thousand deep": b"]" * 100_000 + b"a" * 99_999,
    "tuples nested 3 million deep, as a key": b"})" + b"\x85" * 3_000_000 + b"K\x01s",
    "frozen sets nested deeply": b"(\x91" + b"q\x00(h\x00\x91" * 100_000,
    "a million laughs that hold themselves": b"]q\x00" + b"h\x00a" * 10 + laughs(9, 10)[3:],
    "bytes of 2^62": b"\x8e" + struct.pack("<Q", 2**62) + b"x",
    "text of 2^62": b"\x8d" + struct.pack("<Q", 2**62) + b"x",
    "bytearray of 2^62": b"\x96" + struct.pack("<Q", 2**62) + b"x",
    "whole number of 2^31 bytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",
    "memo of 4 billion places": b"]r\xff\xff\xff\xff",
    "memo of 100 million places in a large file": BIG + b"]r" + struct.pack("<I", 2**22),
    "array of 2^60 numbers in 8 bytes": array((2**30, 2**30), short_bytes(bytes(8))),
    "array of 2^62 empty rows": array((2**62, 2**62, 0), short_bytes(b"")),
    "one array's bytes used 2000 times": BIG + b"q\x000]("
    + call("numpy._core.numeric", "_frombuffer", b"h\x00", F4, b"J" + struct.pack("<i", 2**20) + b"\x85", text("C"))
    * 2000 + b"e",
    "one text's bytes used 2000 times": b"X" + struct.pack("<I", 2**21) + b"a" * 2**21 + b"q\x000]("
    + call("_codecs", "encode", b"h\x00", text("latin1")) * 2000 + b"e",
    "one list made into 10 thousand sets": b"](" + b"".join(b"M" + struct.pack("<H", i) for i in range(2**13))
    + b"eq\x000](" + call("builtins", "set", b"h\x00") * 10_000 + b"e",
    "a NumPy text of 100 MB": call("numpy._core.multiarray", "scalar",
                                   call("numpy", "dtype", text("S99999999"), b"\x89", b"\x88"), b"C\x01a"),
    "steps without end": b"N0" * 30_000,
    "os.system": call("os", "system", text("touch {marker}")),
    "builtins.eval": call("builtins", "eval", text("open('{marker}', 'w')")),
    "subprocess.Popen": call("subprocess", "Popen", text("touch {marker}")),
    "numpy.load of a pickle": call("numpy", "load", text("{marker}"), b"N", b"\x88"),
    "numpy.memmap": call("numpy", "memmap", text("{marker}"), text("u1"), text("w+")),
    "numpy f2py": call("numpy.f2py.diagnose", "run_command", text("touch {marker}")),
    "numpy.testing's exec": call("numpy.testing._private.utils", "runstring", text("open('{marker}','w')"), b"}"),
    "torch.load": call("torch", "load", text("{marker}")),
    "an old class (INST)": b"(" + text("touch {marker}") + b"ios\nsystem\n",
    "an old class (OBJ)": b"(" + name("os", "system") + text("touch {marker}") + b"o",
    "a new object (NEWOBJ)": name("pathlib", "Path") + text("{marker}") + b"\x85\x81",
    "an extension (EXT1)": b"\x82\x01",
    "a persistent object (PERSID)": b"P{marker}\n",
    "a persistent object (BINPERSID)": text("{marker}") + b"Q",
    "an out-of-band buffer": b"\x97\x98",
    "a change of the loader (BUILD)": name("_codecs", "encode") + b"}" + text("_call") + name("os", "system") + b"sb",
    "an array of objects": array((1,), short_bytes(bytes(8)), "O8"),
    "an array with a forged dtype": array((1,), short_bytes(bytes(8)), "V8"),
}  # fmt: skip


def pickled(body, marker):
    return b"\x80\x05" + body.replace(b"{marker}", str(marker).encode()) + b"."


@pytest.mark.parametrize("case", PICKLES)
def test_pickle(tmp_path, monkeypatch, case):
    # Nearer than in earnest, where it takes seconds to come there.
    if case == "steps without end":
        monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 50_000)
    elif case == "lists without a container":
        monkeypatch.setattr(safe_pickle, "_MAX_STACK", 100_000)
    marker = tmp_path / "m"  # short: its length must fit where it stands
    monkeypatch.chdir(tmp_path)
    (tmp_path / "annotations.pkl").write_bytes(pickled(PICKLES[case], "m"))
    with pytest.raises((safe_pickle.UnsafePickleError, safe_pickle.DamagedPickleError)) as caught, bounded():
        safe_pickle.load(tmp_path / "annotations.pkl")
    assert str(tmp_path / "annotations.pkl") in str(caught.value) and len(str(caught.value)) < 1000
    assert "MemoryError" not in str(caught.value) or "2^6" in case, "it was built until memory ended"
    assert not marker.exists(), "code ran"


def test_what_is_large_and_honest_is_read(tmp_path):
    """The bounds leave room for what the data sets hold, and a pickle of shared parts is no bomb."""
    entries = [{"image_name": f"img_{i:06d}.jpg", "optimized_local_pose": np.ones((15, 3)) * i, "joints_2d": [[1.5, i]]}
               for i in range(3000)]  # fmt: skip
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(entries, 4))
    (tmp_path / "b.pkl").write_bytes(pickled(laughs(40, 10), ""))
    with bounded():
        loaded = safe_pickle.load(tmp_path / "a.pkl")
        safe_pickle.load(tmp_path / "b.pkl")
    assert len(loaded) == 3000 and loaded[7]["optimized_local_pose"][3, 1] == 7
    assert pickletools.genops  # the walk is the library's own


# --- frames ----------------------------------------------------------------------------------------------------------


def jpeg(width, height, value=90):
    return cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def with_size(data, width, height):
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, unpacked=3 * 60_000 * 100):
    """A PNG whose few bytes unpack to that many black pixels, or would; its data to so many bytes."""
    rows = zlib.compress(bytes(unpacked))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_profile(data):
    """The PNG with a colour profile that is small in the file alone."""
    return data[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200 << 20))) + data[33:]


def size_last(data):
    return data[:8] + data[33:-12] + data[8:33] + data[-12:]


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as store:
        for key, data in members.items():
            store.writestr(key.replace("__", "/"), data)
    return file.getvalue()


def outside(data, path, source=None):
    """Put a link at `path` to a copy of what was there, out of the data set."""
    target = data.root.parent / "elsewhere"
    target.mkdir(exist_ok=True)
    path.rename(target / path.name)
    path.symlink_to(target / path.name)


def replaced(path, data):
    path.write_bytes(data)


def piped(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


SMALL_ZIP = zipped(a__b=b"x" * 100, **{"..__..__etc__passwd": b"y"})
# (what, how it is made, what the frame's reason says)
FRAMES = [
    ("a header of 60,000 x 60,000 px", lambda d: replaced(d.image(3), with_size(jpeg(96, 80), 60_000, 60_000)),
     "wrong size: image of 60000x60000"),
    ("30,000 x 30,000 px that do decode", lambda d: replaced(d.image(3), with_size(jpeg(96, 80), 30_000, 30_000)),
     "wrong size: image of 30000x30000"),
    ("thousands of scans", lambda d: replaced(d.image(3), jpeg(96, 80)[:-2] + b"\xff\xda\x00\x02" * 5000 + b"\xff\xd9"),
     "JPEG of more than 100 scans"),
    ("a JPEG without a header", lambda d: replaced(d.image(3), b"\xff\xd8" + b"\xff" * 1000 + b"\xff\xd9"),
     "JPEG without a size"),
    ("a PNG bomb", lambda d: replaced(d.image(3), png(60_000, 60_000)), "wrong size: image of 60000x60000"),
    ("a PNG with a profile that unpacks to 200 MB", lambda d: replaced(d.image(3), with_profile(png(96, 80, 0))),
     "PNG does not decode"),
    ("a PNG of endless chunks", lambda d: replaced(d.image(3), png(96, 80)[:8] + bytes(12) * 2_000_000),
     "truncated PNG: no end chunk"),
    ("a PNG whose size comes last", lambda d: replaced(d.image(3), size_last(png(96, 80))), "PNG without a size"),
    ("a JPEG of endless segments", lambda d: replaced(d.image(3), b"\xff\xd8" + b"\xff\xe0\x00\x00" * 2_000_000),
     "truncated JPEG: no end marker"),
    ("a zip", lambda d: replaced(d.image(3), SMALL_ZIP), "not a JPEG or PNG"),
    ("a pickle", lambda d: replaced(d.image(3), pickle.dumps(os.system)), "not a JPEG or PNG"),
    ("a file of 1 GB", lambda d: os.truncate(d.image(3), 1 << 30), "not readable: 1073741824 bytes"),
    ("a pipe", lambda d: piped(d.image(3)), "missing on disk"),
    ("an endless device", lambda d: (d.image(3).unlink(), d.image(3).symlink_to("/dev/zero")), "missing on disk"),
    ("a link out of the data set", lambda d: outside(d, d.image(3)), "link out of the data set"),
    ("a link to itself", lambda d: (d.image(3).unlink(), d.image(3).symlink_to(d.image(3))), "missing on disk"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "make", "said"), FRAMES, ids=[f[0] for f in FRAMES])
def test_frame(tmp_path, what, make, said):
    data = Layout(tmp_path / "set", "egopw")
    make(data)
    with bounded():
        report = data.prepare()
    (reason,) = report["train"]["skipped"]["bad/one"]
    assert reason == said.split(":")[0]
    sequence = next(s for s in read_prepared(data.root / "out", "train") if s.name == "bad/one")
    assert len(sequence) == 9 and 3 not in sequence.frame_numbers
    sequence.close()


NAMES = ["../../secret.jpg", "/etc/passwd", "img_000003.jpg\0.png", "..\\..\\img_000003.jpg", "C:\\img_000003.jpg",
         "imgs/../img_000003.jpg", "img_000003.jpg/", "img_٠٠٠٠٠3.jpg", "img_" + "9" * 100_000 + ".jpg"]  # fmt: skip


@pytest.mark.parametrize("given", NAMES, ids=[repr(n[:20]) for n in NAMES])
def test_image_name(tmp_path, given):
    data = Layout(tmp_path, "egopw")
    data.change(3, image_name=given)
    with bounded():
        report = data.prepare()
    assert report["train"]["skipped"]["bad/one"] == {
        "image_name is not of the form img_%06d.jpg": 1,
        "no annotation": 1,
    }


# --- files of a sequence, each fault costs the sequence and names the file --------------------------------------------


def npz(path, **members):
    path.write_bytes(zipped(**{f"{key}.npy": data for key, data in members.items()}))


def npy(shape, dtype="<f8", data=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + data


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([os.system], dtype=object), allow_pickle=True)
NAMED = npy((10,), "<U14", np.array([f"img_{n:06d}.jpg" for n in range(1, 11)]).tobytes())
DEEP = "[" * 200_000
SEQUENCES = [
    ("annotations: a zip", ("egopw", "sceneego"), lambda d: replaced(d.annotations, SMALL_ZIP), r"not a whole pickle"),
    ("annotations: a link outside", ("egopw", "sceneego"), lambda d: outside(d, d.annotations), "a link out of"),
    ("annotations: a pipe", ("egopw",), lambda d: piped(d.annotations), "no annotation file"),
    ("annotations: of 2 GB", ("egopw",), lambda d: os.truncate(d.annotations, 2 << 30), "2147483648 bytes"),
    ("annotations: a pose of huge whole numbers", ("egopw",),
     lambda d: d.edit(lambda e: [{**x, "optimized_local_pose": [[10**400] * 3] * 15} for x in e]), "too large for a f"),
    ("annotations: huge ext_id", ("sceneego",),
     lambda d: d.edit(lambda e: [{**x, "ext_id": 10**5000} for x in e]), "ext_id is beyond"),
    ("imgs/: a link outside", ("egopw", "sceneego"), lambda d: outside(d, d.bad / "imgs"), "a link out of"),
    ("syn.json: nested deeply", ("sceneego",), lambda d: (d.bad / "syn.json").write_text(DEEP), "nested too deeply"),
    ("syn.json: huge numbers", ("sceneego",),
     lambda d: (d.bad / "syn.json").write_text('{"ego": 1%s, "ext": 1}' % ("0" * 4000)), "no whole numbers"),
    ("syn.json: endless digits", ("sceneego",),
     lambda d: (d.bad / "syn.json").write_text('{"ego": 1%s, "ext": 1}' % ("0" * 9000)), "not readable as JSON"),
    ("syn.json: of 1 GB", ("sceneego",), lambda d: os.truncate(d.bad / "syn.json", 1 << 30), "1073741824 bytes"),
    ("syn.json: a link outside", ("sceneego",), lambda d: outside(d, d.bad / "syn.json"), "a link out of"),
    ("actions.csv: of 1 GB", ("egopw",),
     lambda d: ((d.bad / "actions.csv").touch(), os.truncate(d.bad / "actions.csv", 1 << 30)), "1073741824 bytes"),
    ("actions.csv: one huge cell", ("egopw",),
     lambda d: (d.bad / "actions.csv").write_text("frame,action\n" + "a" * 1_000_000), "field larger than"),
    ("actions.csv: a link outside", ("egopw",),
     lambda d: ((d.bad / "actions.csv").write_text("frame,action\n"), outside(d, d.bad / "actions.csv")),
     "a link out of"),
    ("visibility.npz: pickled objects", ("egopw",), lambda d: npz(d.bad / "visibility.npz",
     frame_names=OBJECTS.getvalue()), "not readable as NPZ"),
    ("visibility.npz: unpacks to 257 MB", ("egopw",), lambda d: npz(d.bad / "visibility.npz",
     frame_names=NAMED, hidden=npy((10, 15), "|b1", bytes(257 << 20))), "unpacks to"),
    ("visibility.npz: declares 2^60 names", ("egopw",), lambda d: npz(d.bad / "visibility.npz",
     frame_names=npy((2**58,), "<U1", b"abcd")), "its bytes do not fill"),
    ("visibility.npz: names that leave the folder", ("egopw",), lambda d: replaced(d.bad / "visibility.npz",
     SMALL_ZIP), "no list of names"),
    ("visibility.npz: code in the header", ("egopw",), lambda d: npz(d.bad / "visibility.npz",
     frame_names=b"\x93NUMPY\x01\x00\x30\x00" + b"__import__('os').system('touch ran')".ljust(47) + b"\n"),
     "not readable as NPZ"),
]  # fmt: skip
CASES = [pytest.param(kind, *case[2:], id=f"{case[0]}-{kind}") for case in SEQUENCES for kind in case[1]]


@pytest.mark.parametrize(("kind", "make", "said"), CASES)
def test_file_of_a_sequence(tmp_path, monkeypatch, kind, make, said):
    monkeypatch.chdir(tmp_path)
    data = Layout(tmp_path / "set", kind)
    make(data)
    with bounded():
        report = data.prepare()
    ((name, reason),) = report["train"]["failed"].items()
    assert name.startswith("bad") and str(data.bad) in reason and said in reason, reason
    assert len(reason) < 1000
    assert sorted(p.name for p in tmp_path.iterdir()) in (["set"], ["elsewhere", "set"]), "something was written"


def test_links_within_the_data_set_and_of_whole_sequences_are_followed(tmp_path):
    """Users link data sets, and sequences that lie on another disk; copies kept once are linked within the set."""
    data = Layout(tmp_path / "real", "egopw")
    data.image(3).unlink()
    data.image(3).symlink_to(data.image(4))
    (tmp_path / "disk").mkdir()
    (data.root / "good").rename(tmp_path / "disk" / "good")
    (data.root / "good").symlink_to(tmp_path / "disk" / "good")
    (tmp_path / "linked").symlink_to(data.root)
    data.root = tmp_path / "linked"
    report = data.prepare()
    assert report["train"]["frames"] == 20 and not report["train"]["failed"] and not report["train"]["skipped"]


@pytest.mark.parametrize(
    "line", ["/etc", "../set/bad/one", "bad/../../set/bad/one", "..\\bad", "C:\\bad", "bad/one\0", "a" * 100_000]
)
def test_split_list(tmp_path, line):
    data = Layout(tmp_path / "set", "egopw")
    (data.root / "train.txt").write_text(f"good/one\n{line}\n")
    with pytest.raises(DatasetError, match=r"train\.txt, line 2: ") as caught, bounded():
        data.prepare()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("make", [piped, lambda path: os.truncate(path, 1 << 31)], ids=["a pipe", "of 2 GB"])
@pytest.mark.parametrize("file", ["train.txt", "camera.json"])
def test_lists_and_calibrations_without_end(tmp_path, make, file):
    data = Layout(tmp_path, "egopw")
    make(tmp_path / file)
    with pytest.raises((DatasetError, CalibrationError), match=file), bounded():
        data.prepare()


CALIBRATIONS = {
    "nested deeply": DEEP,
    "a list nested deeply within a field": json.dumps(CALIBRATION).replace("[-24.0", "[" * 500 + "[-24.0"),
    "a size of 2^60": json.dumps(CALIBRATION | {"size": [2**60, 2**60]}),
    "whole numbers of 400 digits": json.dumps(CALIBRATION | {"polynomialC2W": [10**400, 1]}),
    "a centre of 400 digits": json.dumps(CALIBRATION | {"intrinsic": [[0, 0, 10**400], [0, 0, 1]]}),
    "a radius of 400 digits": json.dumps(CALIBRATION | {"imageCircleRadius": 10**400}),
    "endless digits": json.dumps(CALIBRATION).replace("96", "9" * 10_000),
    "NaN": json.dumps(CALIBRATION | {"polynomialW2C": [float("nan")]}),
    "a zip": SMALL_ZIP.decode("latin1"),
}


@pytest.mark.parametrize("case", CALIBRATIONS)
def test_calibration(tmp_path, case):
    path = tmp_path / "camera.json"
    path.write_text(CALIBRATIONS[case], encoding="latin1")
    with pytest.raises(CalibrationError, match=r"camera\.json") as caught, bounded():
        FisheyeCamera.from_json(path)
    assert len(str(caught.value)) < 1000
    with pytest.raises(CalibrationError, match=r"camera\.json") as caught, bounded():
        read_camera(path)
    assert len(str(caught.value)) < 1500


# --- settings and weights --------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
SETTINGS = {
    "a Python object": "seed: !!python/object/apply:os.system ['touch ran']\n",
    "a Python name": "seed: !!python/name:os.system\n",
    "a billion laughs": LAUGHS + "seed: *a9\n",
    "a billion merged mappings": MERGED + "seed: 1\n",
    "a mapping that holds itself": "seed: &a {b: *a}\n",
    "nested deeply": "seed: " + "[" * 5000,
    "endless digits": "seed: " + "9" * 10_000 + "\n",
    "a number beyond floats": "pose: {lr: 1" + "0" * 400 + "}\n",
    "of 2 MB": "seed: " + "x" * 2_000_000,
    "a zip": SMALL_ZIP.decode("latin1"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(tmp_path, monkeypatch, project, case):
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((project / "params.yaml").read_text())
    if case == "a number beyond floats":
        raw["pose"]["lr"] = 10**400
    elif "seed: " in SETTINGS[case]:
        del raw["seed"]
    whole = "" if case == "a zip" else yaml.safe_dump(raw)
    added = "" if case == "a number beyond floats" else SETTINGS[case]
    (tmp_path / "params.yaml").write_text(whole + added, encoding="latin1")
    with pytest.raises(SettingsError, match=r"params\.yaml") as caught, bounded():
        params.load(tmp_path / "params.yaml")
    assert len(str(caught.value)) < 2000 and not (tmp_path / "ran").exists()


LENS = "D: [0, 0, 0, 0]\nsize: [640, 480]\nK: "
YAML_CALIBRATIONS = {
    "a Python object": LENS + "!!python/object/apply:os.system ['touch ran']\n",
    "a billion laughs": LAUGHS + LENS + "*a9\n",
    "a billion merged mappings": MERGED + LENS + "[1]\n",
    "a matrix that holds itself": LENS + "&a [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n",
    "a mapping that holds itself": LENS + "&a {data: *a}\n",
    "nested deeply": LENS + "[" * 5000,
    "endless digits": LENS + "[" + "9" * 10_000 + "]\n",
    "a number beyond floats": LENS + "[" + ", ".join(["1" + "0" * 400] * 9) + "]\n",
    "of 2 MB": LENS + "x" * 2_000_000,
    "many cameras": "".join(f"cam{i}: {{a: 1}}\n" for i in range(9000)),
    "a model that is a list": "cam0: {camera_model: [[[[[]]]]], distortion_model: {a: b}}\n",
    "numbers alone": "1 " * 100_000,
    "a huge polynomial": "5 1 1 1 1 1\n5 1e308 1e308 1e308 1e308 1e308\n1 1\n1 0 0\n480 640\n",
}


@pytest.mark.parametrize("case", YAML_CALIBRATIONS)
def test_calibration_of_another_program(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera.yaml").write_text(YAML_CALIBRATIONS[case])
    with pytest.raises(CalibrationError, match=r"camera\.yaml") as caught, bounded():
        read_camera(tmp_path / "camera.yaml")
    assert len(str(caught.value)) < 1500 and not (tmp_path / "ran").exists()


class Touch:
    def __reduce__(self):
        return os.system, ("touch ran",)


def torch_zip(**replaced_members):
    """A file of torch.save whose members are replaced, compressed."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as store:
        members = {info.filename: store.read(info) for info in store.infolist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as store:
        for key, value in members.items():
            store.writestr(key, replaced_members.get(key.split("/", 1)[1].replace("/", "_"), value))
    return out.getvalue()


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def safetensors_file(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


WEIGHTS = {
    "code.pth": saved({"w": Touch()}),
    "code_in_an_old_file.pth": pickle.dumps({"w": Touch()}),
    "no_dict.pth": saved([1, 2]),
    "compressed_storage.pth": torch_zip(data_0=bytes(450 << 20)),
    "short_storage.pth": torch_zip(data_0=b""),
    "zip.pth": SMALL_ZIP,
    "zip.safetensors": SMALL_ZIP,
    "pickle.safetensors": pickle.dumps({"w": Touch()}),
    "header_of_2^60.safetensors": struct.pack("<Q", 2**60) + b"{}",
    "header_beyond_the_file.safetensors": struct.pack("<Q", 50_000_000) + b"{}",
    "header_nested_deeply.safetensors": safetensors_file(DEEP.encode()),
    "tensor_beyond_the_file.safetensors": safetensors_file(
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ),
    "shape_not_filled.safetensors": safetensors_file(
        {"w": {"dtype": "F32", "shape": [2**20], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "overlapping_tensors.safetensors": safetensors_file(
        {str(i): {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]} for i in range(1000)}, bytes(1000)
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / case).write_bytes(WEIGHTS[case])
    with pytest.raises(WeightsError) as caught, bounded():
        read_checkpoint(tmp_path / case)
    assert case in str(caught.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [DEEP, "[1]", '{"a": 1' + "0" * 9000 + "}", "PK\x03\x04"])
def test_settings_of_weights(tmp_path, content):
    weights.save(tmp_path / "w.safetensors", torch.nn.Linear(2, 2), {})
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(WeightsError, match=r"w\.json"), bounded():
        weights.load(tmp_path / "w.safetensors")


# --- prepared files and features -------------------------------------------------------------------------------------


def reset(file, key, **options):
    del file[key]
    return file.create_dataset(key, **options)


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["joints_3d"] = np.zeros(file["joints_3d"].shape, np.float32)
    del file["joints_3d"]
    file["joints_3d"] = h5py.ExternalLink(str(folder / "other.h5"), "joints_3d")


def soft_link(file, folder):
    file["other"] = file["joints_3d"][:]
    del file["joints_3d"]
    file["joints_3d"] = h5py.SoftLink("/other")


def virtual(file, folder):
    layout = h5py.VirtualLayout((6, 15, 3), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (6, 15, 3))
    del file["joints_3d"]
    file.create_virtual_dataset("joints_3d", layout)


def huge(file, folder):
    del file["frame_numbers"]
    file.create_dataset("frame_numbers", (2**50,), np.int64, chunks=(1024,))


def bomb(file, folder):
    reset(file, "jpeg", shape=(2**34,), dtype=np.uint8, chunks=(2**22,), compression="gzip")


def frames_of(width, height):
    def make(file, folder):
        data = with_size(jpeg(32, 32), width, height)
        reset(file, "jpeg", data=np.frombuffer(data * 6, np.uint8))
        file["offsets"][:] = np.arange(7) * len(data)

    return make


PREPARED = {
    "link to another file": external_link,
    "link within the file": soft_link,
    "numbers stored in another file": lambda f, p: reset(
        f, "joints_3d", shape=(6, 15, 3), dtype=np.float32, external=[("/etc/passwd", 0, 6 * 45 * 4)]
    ),
    "virtual array": virtual,
    "2^50 frames without bytes": huge,
    "joints without bytes": lambda f, p: reset(f, "joints_3d", shape=(6, 15, 3), dtype=np.float32),
    "compressed bomb": bomb,
    "objects": lambda f, p: reset(f, "joints_3d", shape=(6, 15, 3), dtype=h5py.vlen_dtype(np.float32)),
    "references": lambda f, p: reset(f, "action", shape=(6,), dtype=h5py.ref_dtype),
    "group in place of an array": lambda f, p: (f.pop("jpeg", None), f.create_group("jpeg")),
    "frames of a million pixels a side": lambda f, p: f.attrs.update(
        view=json.dumps({"full_size": [160, 128], "size": 10**6, "crop": "none"})
    ),
    "calibration nested deeply": lambda f, p: f.attrs.update(calibration="[" * 20_000),
    "offsets beyond the bytes": lambda f, p: f["offsets"].write_direct(np.arange(7, dtype=np.int64) * 2**40),
    "offsets that fall": lambda f, p: f["offsets"].write_direct(np.arange(7, dtype=np.int64)[::-1].copy()),
    "stored frames of 60,000 px": frames_of(60_000, 60_000),
    "action without a name": lambda f, p: f["action"].write_direct(np.full(6, 2**30, np.int32)),
}


@pytest.fixture
def prepared(tmp_path, make_sequence, request):
    """A copy of a prepared file of six frames, to spoil."""
    source = make_sequence(f"h{abs(hash(request.node.name))}/s", range(6), actions=["walk"])
    path = tmp_path / "s.h5"
    path.write_bytes(source.path.read_bytes())
    return path


@pytest.mark.parametrize("case", PREPARED)
def test_prepared_file(tmp_path, prepared, case):
    with h5py.File(prepared, "a") as file:
        PREPARED[case](file, tmp_path)
    with pytest.raises(DatasetError, match=r"s\.h5: .*dvc repro prepare") as caught, bounded():
        sequence = PreparedSequence(prepared)
        assert sequence.joints_3d.shape and sequence.actions
        sequence.images(slice(None))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "splits",
    [
        '{"splits": {"train": ["../../elsewhere.h5"]}}',
        '{"splits": {"train": ["/etc/passwd"]}}',
        '{"splits": {"train": [7]}}',
        '{"splits": [1]}',
        DEEP,
    ],
)
def test_splits_of_a_prepared_folder(tmp_path, splits):
    (tmp_path / "splits.json").write_text(splits)
    with pytest.raises(DatasetError, match=r"splits\.json: not readable"), bounded():
        read_prepared(tmp_path, "train")


FEATURES = {
    "link to another file": lambda f: f.__setitem__("trunk", h5py.ExternalLink("/etc/passwd", "x")),
    "stored in another file": lambda f: f.create_dataset(
        "trunk", (6, 8, 2, 2), np.float16, external=[("/etc/passwd", 0, 384)]
    ),
    "chunks": lambda f: f.create_dataset("trunk", data=np.zeros((6, 8, 2, 2), np.float16), chunks=(1, 8, 2, 2)),
    "without bytes": lambda f: f.create_dataset("trunk", (6, 2**20, 2**10, 2), np.float16),
    "another type": lambda f: f.create_dataset("trunk", data=np.zeros((6, 8, 2, 2))),
    "another rank": lambda f: f.create_dataset("trunk", data=np.zeros(6, np.float16)),
    "a group": lambda f: f.create_group("trunk"),
}


@pytest.mark.parametrize("case", FEATURES)
def test_feature_file(tmp_path, prepared, case):
    sequence = PreparedSequence(prepared)
    (tmp_path / "features.json").write_text('{"stored": true}')
    path = feature_file(tmp_path, sequence)
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        FEATURES[case](file)
    with pytest.raises(FeatureError, match=rf"{path.name}: no readable features.*dvc repro"), bounded():
        open_features(tmp_path, [sequence])


def test_there_are_enough_of_them():
    tables = (PICKLES, FRAMES, NAMES, SEQUENCES, CALIBRATIONS, SETTINGS, WEIGHTS, PREPARED, FEATURES)
    assert sum(map(len, tables)) >= 100 and set(ANNOTATIONS) == {"egopw", "sceneego"}
