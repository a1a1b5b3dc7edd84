"""Frozen features, computed once: heatmaps (Sec. 3.1) and the output of ResNet's layer3 (Sec. 3.2) of every frame.

Both networks are frozen in pose training, so their outputs are the same in every epoch and in every window.
"""

import copy
from pathlib import Path

import numpy as np

from agego_lib.datasets.prepared import check_dataset, hdf5_fault, new_hdf5, open_hdf5
from agego_lib.files import read_json, write_json
from agego_lib.images import to_tensor
from agego_lib.progress import bar

MANIFEST = "features.json"
HEATMAPS = ("heatmaps", "distances")  # what the heatmap network gives


class FeatureError(ValueError):
    """A feature store that is missing or does not fit the prepared sequences; the message says what to run."""


def feature_file(folder, sequence):
    """Where the features of one prepared sequence lie. Raises FeatureError for a key that leaves the folder."""
    parts = sequence.key.split("/")
    if len(parts) != 3 or {"", ".", ".."} & {*parts[:2]}:
        raise FeatureError(f"{sequence.path}: {sequence.key!r:.200} names no file; expected <data set>/<split>/<name>")
    return Path(folder) / f"{sequence.key}.h5"


def estimate_gb(model, sequences):
    """Size of the float16 features of all frames, in 10^9 bytes, from one frame's."""
    device = next(model.parameters()).device
    frozen = model.frozen_features(to_tensor(sequences[0].images([0])).to(device))
    return sum(value[0].numel() for value in frozen.values()) * 2 * sum(len(s) for s in sequences) / 1e9


def store_features(folder, model, sequences, limit_gb, batch_size=64):
    """Compute and store the frozen features of prepared sequences, unless they would take more than `limit_gb`.

    model: AGEgoPose, of which only the frozen networks run. Writes one HDF5 file a sequence (float16) and
    `features.json`, which says whether features are stored and how large they are; returns its content. The size is
    estimated and printed before anything is written.
    """
    folder = Path(folder)
    estimate, frames = estimate_gb(model, sequences), sum(len(s) for s in sequences)
    print(f"frozen features of {frames} frames in float16: {estimate:.3g} GB, of {limit_gb:g} GB that they may take")
    folder.mkdir(parents=True, exist_ok=True)
    # The folder is not whole until the new one is there.
    (folder / MANIFEST).unlink(missing_ok=True)
    manifest = {
        "frames": frames,
        "estimated_gb": round(estimate, 4),
        "limit_gb": limit_gb,
        "stored": estimate <= limit_gb,
    }
    if manifest["stored"]:
        device = next(model.parameters()).device
        with bar(manifest["frames"], "frozen features", "frame") as progress:
            for sequence in sequences:
                size = round(estimate * 1e9 / frames * len(sequence))
                with new_hdf5(feature_file(folder, sequence), size) as file:
                    file.attrs["content"] = sequence.content
                    for start in range(0, len(sequence), batch_size):
                        indices = np.arange(start, min(start + batch_size, len(sequence)))
                        frozen = model.frozen_features(to_tensor(sequence.images(indices)).to(device))
                        for name, value in frozen.items():
                            if start == 0:
                                file.create_dataset(name, (len(sequence), *value.shape[1:]), np.float16)
                            file[name][indices[0] : indices[-1] + 1] = value.half().cpu().numpy()
                        progress.update(len(indices))
    write_json(folder / MANIFEST, manifest)
    return manifest


class FeatureStore:
    """Stored features of a list of prepared sequences, memory-mapped; safe to send to loader workers.

    Raises FeatureError where a file is missing, or was computed from another preparation of its sequence.
    """

    def __init__(self, folder, sequences):
        self._places = [self._find(feature_file(folder, sequence), sequence) for sequence in sequences]

    @staticmethod
    def _find(path, sequence):
        try:
            with open_hdf5(path) as file:
                content = file.attrs.get("content")
                for name in file:
                    check_dataset(file, name, np.float16, (None,) * 4)  # (frames, C, h, w)
                # Contiguous data sets can be mapped by offset, which needs no HDF5 handle in each worker.
                # A Path would be resolved anew at each reading.
                places = {name: (str(path), data.shape, data.id.get_offset()) for name, data in file.items()}
        except (OSError, ValueError) as error:
            fault = hdf5_fault(error, "run `dvc repro features`")
            raise FeatureError(f"{path}: no readable features {fault}") from None
        if content != sequence.content:
            raise FeatureError(f"{path}: features of another preparation of {sequence.key}; run `dvc repro features`")
        for name, (_, shape, _) in places.items():
            if shape[0] != len(sequence):
                expected = f"expected {len(sequence)}; run `dvc repro features`"
                raise FeatureError(f"{path}: {name} of {shape[0]} frames, {expected}")
        return places

    def read(self, sequence, frames):
        """Features of frames (T,), or a slice of them, of one sequence -> dict of float16 arrays (T, ...)."""
        return {
            name: np.memmap(path, np.float16, "r", offset, shape)[frames]
            for name, (path, shape, offset) in self._places[sequence].items()
        }

    def with_heatmaps_of(self, other):
        """This store with the heatmaps, and what comes with them, of another one of the same sequences."""
        mixed = copy.copy(self)
        pairs = zip(self._places, other._places, strict=True)
        mixed._places = [ours | {name: theirs[name] for name in HEATMAPS if name in theirs} for ours, theirs in pairs]
        return mixed


def open_features(folder, sequences, heatmaps=None):
    """The FeatureStore of some sequences, or None where `features.json` says that they were too large to store.

    heatmaps: folder of a second store, whose heatmaps stand in place of the first one's (Table 6).
    """
    path = Path(folder) / MANIFEST
    try:
        stored = read_json(path)["stored"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureError(f"{path}: not readable ({error}); run `dvc repro features`") from None
    store = FeatureStore(folder, sequences) if stored else None
    if heatmaps is None:
        return store
    other = open_features(heatmaps, sequences)
    return store.with_heatmaps_of(other) if store and other else None
