"""The suite's own store: one HDF5 file a sequence, with frames as the network sees them and all their labels."""

import hashlib
import json
import os
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

import cv2
import h5py
import numpy as np

from agego_lib.camera import FisheyeCamera, InputView
from agego_lib.datasets.decoding import decode_image, jpeg_size
from agego_lib.datasets.image_circle import FRAMES, BrightestFrame
from agego_lib.datasets.sequence import DatasetError, OutsideView, sequence_key
from agego_lib.files import read_json, replacing
from agego_lib.skeleton import NUM_JOINTS

FORMAT = "ag-egopose prepared sequence"
VERSION = 2  # 2: split and content
SPLITS_FILE = "splits.json"
MAX_SIDE = 4096  # px, of a view
QUALITY = 95  # of the stored JPEGs
DEPTH_SIDE = 24  # px, of the scene's depth: about 4 degrees each
MAX_SPLITS_BYTES = 1 << 28
_PREPARE_AGAIN = "prepare the data again (prepare_dataset, or `dvc repro prepare`)"


def _reserve(path, size):
    """Take up `size` bytes of the disk for a file. Raises OSError where they are not to be had."""
    if hasattr(os, "posix_fallocate"):
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def open_hdf5(path, mode="r"):
    """An h5py.File without HDF5's locks, which network disks may lack: every file appears whole, by a rename."""
    return h5py.File(path, mode, locking=False)


def hdf5_fault(error, again):
    """What an error on reading a file tells: that it is damaged, and what makes it `again`, or that the disk failed."""
    if getattr(error, "errno", None) is None or isinstance(error, FileNotFoundError):
        return f"({error}); {again}"
    return f"({error}); this is the disk's or the network's doing, the file may be whole: look there, and try again"


@contextmanager
def new_hdf5(path, size):
    """An h5py.File to be written at `path`, whole or not at all. Raises OSError with the path where the disk is full.

    size: bytes of all arrays and texts. Their room is taken first, since where a write fails, HDF5 crashes the whole
    process as it closes the file.
    """
    size += 1 << 16  # HDF5's own
    with replacing(path) as partial:
        _reserve(partial, size)
        with open_hdf5(partial, "w") as file:
            _reserve(partial, size)  # opening has given it back
            yield file
            file.flush()
            end = file.id.get_filesize()
        os.truncate(partial, end)


def _encode_frames(sequence, view, quality, progress):
    """-> (indices of the frames that can be used, their JPEG bytes in the view, name -> reason for the others, their
    image circle as `fit_circle` gives it)."""
    kept, encoded, skipped, brightest = [], [], {}, BrightestFrame(view)
    shown = set(np.linspace(0, len(sequence) - 1, FRAMES).astype(int).tolist())
    for index, path in enumerate(sequence.frame_paths):
        try:
            image = decode_image(path, view.check_size)
            if index in shown:
                brightest.add(image)
            image = view.apply(image)
            done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if not done:
                raise OSError(f"{path}: OpenCV could not encode the frame's view as JPEG")
        except ValueError as error:
            skipped[path.name] = str(error)
        else:
            kept.append(index)
            encoded.append(data.reshape(-1))
            if progress is not None:
                progress(1)
    return np.array(kept, dtype=np.int64), encoded, skipped, brightest.circle()


def depth_in_view(depth, camera, view):
    """Distances (N, H, W) m over the full image -> (N, side, side) float16 over the view, 0 where unknown.

    The nearest pixel counts: a mean over an edge would be where nothing is. Raises DatasetError for maps of another
    shape than the image's.
    """
    scale = np.divide(depth.shape[:0:-1], camera.size)
    if abs(scale[0] / scale[1] - 1) > 0.1:
        raise DatasetError(
            f"depth.npz: maps of {depth.shape[2]}x{depth.shape[1]} px; expected those of the whole image, whose size "
            f"is {camera.size[0]}x{camera.size[1]}, made smaller. Write it again or remove it"
        )
    grid = np.stack(np.meshgrid(*[np.arange(DEPTH_SIDE)] * 2), axis=-1)
    pixels = view.to_full(grid, DEPTH_SIDE)
    with np.errstate(invalid="ignore"):
        # Polynomials may fold back into the image: what comes back from there is another direction.
        seen = camera.in_image(pixels) & (np.abs(view.to_view(pixels, DEPTH_SIDE) - grid) < 0.5).all(-1)
    pixels = np.where(seen[..., None], pixels, 0)
    u, v = np.moveaxis(((pixels + 0.5) * scale).astype(int), -1, 0)
    found = depth[:, np.minimum(v, depth.shape[1] - 1), np.minimum(u, depth.shape[2] - 1)]
    return np.where(seen & np.isfinite(found) & (found > 0), found, 0).astype(np.float16)


def write_prepared(path, sequence, camera, view, quality=QUALITY, progress=None, split="train"):
    """Write one Sequence as a prepared HDF5 file -> {"frames": number written, "skipped": {frame name: reason}}.

    Each frame is decoded, passed through `view` (an InputView) and stored as JPEG of that `quality`. Frames that do
    not decode whole or have another size than the calibration's are skipped, along with those skipped on reading.
    `progress`, where given, is called with 1 for each frame encoded. The file appears only when complete.
    Raises DatasetError where no frame is left, OSError where the file cannot be written.
    """
    written = write_and_describe(path, sequence, camera, view, quality, progress, split)
    return {key: written[key] for key in ("frames", "skipped")}


def write_and_describe(path, sequence, camera, view, quality=QUALITY, progress=None, split="train"):
    """As `write_prepared`; its report also has "content", a SHA-256 of what the file holds, the same for all versions
    of HDF5, and "circle", the image circle ((u, v), radius) px of the frames, or None where it is not to be seen."""
    path = Path(path)
    kept, encoded, skipped, circle = _encode_frames(sequence, view, quality, progress)
    skipped = {**sequence.skipped, **skipped}
    if not len(kept):
        first = next((f" (first: {p.name}: {skipped[p.name]})" for p in sequence.frame_paths), "")
        raise DatasetError(
            f"{sequence.name}: none of its {len(sequence)} frames can be used{first}; "
            "check the frames and that the calibration is this camera's"
        )
    pixels = np.asarray(sequence.joints_2d, dtype=np.float32)[kept]
    in_image = camera.in_image(pixels) if sequence.in_image is None else np.asarray(sequence.in_image, bool)[kept]
    actions = [sequence.actions[i] for i in kept] if sequence.actions is not None else [None] * len(kept)
    action_names = sorted({action for action in actions if action is not None})
    attributes = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": sequence.dataset,
        "split": split,
        "name": sequence.name,
        "actor": sequence.actor,
        "calibration": camera.to_json(),
        "view": json.dumps({"full_size": list(view.full_size), "size": view.size, "crop": view.crop}),
        "labelled_actions": sequence.actions is not None,
    }
    arrays = {
        "jpeg": np.concatenate(encoded),
        "offsets": np.cumsum([0] + [len(data) for data in encoded], dtype=np.int64),
        "joints_3d": np.asarray(sequence.joints_3d, dtype=np.float32)[kept],
        "joints_2d": pixels,
        "frame_numbers": np.asarray(sequence.frame_numbers, dtype=np.int64)[kept],
        "action": np.array([-1 if a is None else action_names.index(a) for a in actions], dtype=np.int32),
        "in_image": in_image,
    }
    if sequence.hidden is not None:
        arrays["hidden"] = np.asarray(sequence.hidden, dtype=bool)[kept]
    if sequence.depth is not None:
        arrays["depth"] = depth_in_view(np.asarray(sequence.depth)[kept], camera, view)
    if sequence.outside is not None:
        view_of = sequence.outside
        arrays |= {"outside_joints_2d": view_of.joints_2d[kept], "outside_confidence": view_of.confidence[kept]}
        arrays["outside_intrinsics"] = view_of.intrinsics
    texts = {"frame_names": [sequence.frame_paths[i].name for i in kept], "action_names": action_names}
    # A text takes up to 40 bytes more than its own.
    size = sum(value.nbytes for value in arrays.values())
    size += sum(len(text.encode()) + 40 for values in texts.values() for text in values)
    content = hashlib.sha256(json.dumps([attributes, texts], sort_keys=True).encode())
    for key, value in sorted(arrays.items()):
        content.update(f"{key} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    content = content.hexdigest()
    with new_hdf5(path, size) as file:
        file.attrs.update(attributes, content=content)
        for key, value in arrays.items():
            file.create_dataset(key, data=value)
        for key, value in texts.items():
            file.create_dataset(key, data=value, shape=(len(value),), dtype=h5py.string_dtype())
    return {"frames": len(kept), "skipped": skipped, "content": content, "circle": circle}


def check_dataset(file, name, dtype, shape):
    """Raise ValueError unless `name` in an open HDF5 file is an array of that dtype and shape whose bytes lie in it.

    Excluded so: links, storage in other files, shapes that no bytes stand behind, compression, pickled objects.
    dtype: str stands for text. shape: None in it stands for any length.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise ValueError(f"no {name}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link to somewhere else")
    data = file[name]
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"{name} is no array")
    found = data.shape or ()
    kind = str if h5py.check_string_dtype(data.dtype) else data.dtype
    fits = len(found) == len(shape) and all(b in (None, a) for a, b in zip(found, shape, strict=True))
    if kind != dtype or not fits:
        expected = tuple("any" if side is None else side for side in shape)
        raise ValueError(f"{name} is {data.dtype} {found}, expected {np.dtype(dtype)} {expected}")
    stored, width = data.id.get_storage_size(), 16 if kind is str else data.dtype.itemsize  # a text's place in the heap
    if data.external or data.is_virtual or data.chunks or stored != data.size * width:
        raise ValueError(f"{name} of shape {found} has {stored} bytes in the file")


class PreparedSequence:
    """N frames of a prepared file. Its labels are read on first use; each process opens the file for itself.

    key: "<data set>/<split>/<name>", as `sequence_key` makes it. content: SHA-256 of what the file holds.

    Raises DatasetError, on opening, for a file that is missing, no prepared sequence, or of another version.
    """

    name: str
    actor: str
    dataset: str
    split: str
    content: str

    def __init__(self, path):
        self.path = Path(path)
        self._file = self._process = self._bytes = None
        with self._open() as file:
            form, version = file.attrs.get("format"), file.attrs.get("version")
            if (form, version) != (FORMAT, VERSION):
                found = f"version {version}" if form == FORMAT else f"format {form!r}"
                raise DatasetError(f"{self.path}: {found}; expected {FORMAT!r}, version {VERSION}; {_PREPARE_AGAIN}")
            try:
                self._length = len(file["frame_numbers"])
                self._check(file)
                for key in ("name", "actor", "dataset", "split", "content"):
                    setattr(self, key, str(file.attrs[key]))
                calibration, view = (json.loads(file.attrs[key]) for key in ("calibration", "view"))
                self._labelled_actions = bool(file.attrs["labelled_actions"])
                centre = tuple(row[2] for row in calibration["intrinsic"][:2])
                polynomials = (tuple(calibration[key]) for key in ("polynomialC2W", "polynomialW2C"))
                radius = calibration["imageCircleRadius"]
                self.camera = FisheyeCamera(tuple(calibration["size"]), centre, *polynomials, radius)
                self.view = InputView.of(self.camera, view["size"], view["crop"])
                if not 0 < self.view.size <= MAX_SIDE:
                    raise ValueError(f"frames of {self.view.size} px")
            except (KeyError, OSError, TypeError, ValueError, RecursionError) as error:
                fault = hdf5_fault(error, _PREPARE_AGAIN)
                raise DatasetError(f"{self.path}: not a whole prepared sequence {fault}") from None

    def _check(self, file):
        n = self._length
        check_dataset(file, "frame_numbers", np.int64, (n,))
        check_dataset(file, "jpeg", np.uint8, (None,))
        check_dataset(file, "offsets", np.int64, (n + 1,))
        check_dataset(file, "joints_3d", np.float32, (n, NUM_JOINTS, 3))
        check_dataset(file, "joints_2d", np.float32, (n, NUM_JOINTS, 2))
        check_dataset(file, "action", np.int32, (n,))
        check_dataset(file, "in_image", np.bool_, (n, NUM_JOINTS))
        check_dataset(file, "frame_names", str, (n,))
        check_dataset(file, "action_names", str, (None,))
        if "hidden" in file:
            check_dataset(file, "hidden", np.bool_, (n, NUM_JOINTS))
        if "depth" in file:
            check_dataset(file, "depth", np.float16, (n, DEPTH_SIDE, DEPTH_SIDE))
        if "outside_intrinsics" in file:
            check_dataset(file, "outside_joints_2d", np.float32, (n, NUM_JOINTS, 2))
            check_dataset(file, "outside_confidence", np.float32, (n, NUM_JOINTS))
            check_dataset(file, "outside_intrinsics", np.float32, (3, 3))

    def _open(self):
        try:
            return open_hdf5(self.path)
        except FileNotFoundError:
            raise DatasetError(f"{self.path}: no such prepared sequence; {_PREPARE_AGAIN}") from None
        except OSError as error:
            raise DatasetError(f"{self.path}: not readable as HDF5 {hdf5_fault(error, _PREPARE_AGAIN)}") from None

    @property
    def _store(self):
        # An HDF5 handle cannot be shared with a forked process, which would move the parent's file position.
        if self._file is None or self._process != os.getpid():
            self._file, self._process = self._open(), os.getpid()
        return self._file

    def __getstate__(self):
        return {**self.__dict__, "_file": None, "_process": None, "_bytes": None}

    def __len__(self):
        return self._length

    @property
    def key(self):
        return sequence_key(self.dataset, self.split, self.name)

    def __repr__(self):
        return f"PreparedSequence({self.key!r}, {len(self)} frames, {self.path})"

    def close(self):
        """Close the file; it opens again when needed."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = self._bytes = None

    @cached_property
    def joints_3d(self):
        """(N, 15, 3) float32, metres, camera frame."""
        return self._store["joints_3d"][:]

    @cached_property
    def joints_2d(self):
        """(N, 15, 2) float32, px in the full image; NaN where a joint has no label."""
        return self._store["joints_2d"][:]

    def joints_view(self, size=None):
        """(N, 15, 2) float32, px in the view, or in maps of side `size` over the same view."""
        return self.view.to_view(self.joints_2d, size).astype(np.float32)

    @cached_property
    def frame_numbers(self):
        """(N,) int64, ascending."""
        return self._store["frame_numbers"][:]

    @cached_property
    def frame_names(self):
        """N file names of the frames in the data set."""
        return self._store["frame_names"].asstr()[:].tolist()

    @cached_property
    def actions(self):
        """N action names, None for a frame of unknown action; None where the sequence has no action labels."""
        if not self._labelled_actions:
            return None
        names = [*self._store["action_names"].asstr()[:].tolist(), None]
        indices = self._store["action"][:]
        if ((indices < -1) | (indices >= len(names) - 1)).any():
            raise DatasetError(f"{self.path}: an action without a name; {_PREPARE_AGAIN}")
        return [names[index] for index in indices]

    @cached_property
    def in_image(self):
        """(N, 15) bool: joint within the image and its circle."""
        return self._store["in_image"][:]

    @cached_property
    def hidden(self):
        """(N, 15) bool: joint hidden from view, or None where unknown."""
        return self._store["hidden"][:] if "hidden" in self._store else None

    @cached_property
    def depth(self):
        """(N, side, side) float16 over the view, metres along the rays to the scene behind the body, 0 where unknown;
        or None where the data set has none."""
        return self._store["depth"][:] if "depth" in self._store else None

    @cached_property
    def outside(self):
        """OutsideView of the frames, or None where the data set has none."""
        if "outside_intrinsics" not in self._store:
            return None
        return OutsideView(*(self._store[f"outside_{key}"][:] for key in ("joints_2d", "confidence", "intrinsics")))

    @cached_property
    def _offsets(self):
        offsets = self._store["offsets"][:]
        if offsets[0] != 0 or (np.diff(offsets) <= 0).any() or offsets[-1] != len(self._store["jpeg"]):
            raise DatasetError(f"{self.path}: offsets that do not fit the frames; {_PREPARE_AGAIN}")
        return offsets

    @property
    def _jpeg(self):
        # Contiguous data can be mapped by its offset: a slice then costs nothing, and forked processes may share it.
        if self._bytes is None:
            data = self._store["jpeg"]
            self._bytes = np.memmap(self.path, data.dtype, "r", data.id.get_offset(), data.shape)
        return self._bytes

    def _frames(self, indices):
        """Yields the frames at `indices` as BGR uint8 (size, size, 3)."""
        jpeg, offsets, shape = self._jpeg, self._offsets, (self.view.size, self.view.size, 3)
        for index in indices:
            data, frame = jpeg[offsets[index] : offsets[index + 1]], None
            if jpeg_size(memoryview(data)) == shape[:2]:
                frame = cv2.imdecode(data, cv2.IMREAD_COLOR)
            if frame is None or frame.shape != shape:
                raise DatasetError(f"{self.path}: frame {index} does not decode; {_PREPARE_AGAIN}")
            yield frame

    def _whole(self, indices):
        return np.arange(len(self))[indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)]

    def images(self, indices):
        """Frames of the view at `indices` (n whole numbers, or a slice) -> (n, size, size, 3) uint8 RGB.

        Raises IndexError outside the sequence and DatasetError where the stored bytes do not decode.
        """
        indices = self._whole(indices)
        images = np.empty((len(indices), self.view.size, self.view.size, 3), np.uint8)
        for image, frame in zip(images, self._frames(indices), strict=True):
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=image)
        return images

    def planes(self, indices, out=None):
        """The same frames as networks take them, (n, 3, size, size) uint8 RGB; written to `out` where given.

        Several times as fast as turning the axes of `images`.
        """
        indices = self._whole(indices)
        if out is None:
            out = np.empty((len(indices), 3, self.view.size, self.view.size), np.uint8)
        for planes, frame in zip(out, self._frames(indices), strict=True):
            red, green, blue = planes
            cv2.split(frame, [blue, green, red])
        return out


def _splits_file(folder):
    """(path, content) of a prepared folder's splits.json. Raises DatasetError."""
    path = Path(folder) / SPLITS_FILE
    try:
        return path, read_json(path, MAX_SPLITS_BYTES)
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing, so {folder} is not completely prepared; {_PREPARE_AGAIN}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable as the list of splits ({error}); {_PREPARE_AGAIN}") from None


def calibration_of(folder):
    """Which calibration a folder was prepared with -> {"file": its name, "sha256": the first 16 digits}.

    Raises DatasetError for a folder that is not prepared, or not completely.
    """
    path, content = _splits_file(folder)
    try:
        return {key: str(content["calibration"][key]) for key in ("file", "sha256")}
    except (KeyError, TypeError):
        raise DatasetError(f"{path}: does not say which calibration it was made with; {_PREPARE_AGAIN}") from None


def read_prepared(folder, split):
    """The sequences of a split ("train" or "test") of a folder that `prepare_dataset` wrote -> list.

    Raises DatasetError for a folder that is not prepared, or not completely, and for an unknown split.
    """
    path, content = _splits_file(folder)
    try:
        splits = content["splits"]
        names = {key: [PurePosixPath(name) for name in value] for key, value in splits.items()}
        if any(name.is_absolute() or ".." in name.parts for group in names.values() for name in group):
            raise ValueError("a name that leaves the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not readable as the list of splits ({error}); {_PREPARE_AGAIN}") from None
    if split not in names:
        raise DatasetError(f"{path}: no split {split!r}; expected one of {', '.join(names)}")
    sequences = [PreparedSequence(Path(folder) / name) for name in names[split]]
    for sequence in sequences:
        if sequence.split != split:
            raise DatasetError(f"{sequence.path}: of the split {sequence.split!r}, not {split!r}; {_PREPARE_AGAIN}")
    return sequences
