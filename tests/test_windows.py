"""Windows against brute force, and the data sets' items against the sequences that they come from."""

import cv2
import numpy as np
import pytest
import torch
from conftest import CAMERA, SIZE
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from agego_lib.camera import InputView
from agego_lib.datasets import FrameDataset, PreparedSequence, Sequence, WindowDataset, segments, window_starts
from agego_lib.datasets.prepared import write_prepared
from agego_lib.training.checkpoints import TrainingError
from agego_lib.training.loading import BUFFERS, Watched, make_loader


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (5, 1), (5, 3), (5, 5), (64, 32), (64, 64), (64, 7)])
def test_windows_cover_every_frame(length, stride):
    for n in range(1, 201):
        starts = window_starts(n, length, stride)
        covered = np.zeros(max(n, length), dtype=int)
        for start in starts:
            covered[start : start + length] += 1
        assert (covered[:n] > 0).all()
        assert starts == sorted(set(starts)) and starts[0] == 0
        if n <= length:
            assert starts == [0]
        else:
            assert starts[-1] == n - length
            steps = np.diff(starts)
            assert (steps[:-1] == stride).all() and 1 <= steps[-1] <= stride
            assert len(starts) == 1 + -(-(n - length) // stride)  # no window more than needed


def test_windows_of_nothing_and_windows_that_leave_gaps():
    assert window_starts(0, 64, 32) == []
    for stride in (0, -1, 65):
        with pytest.raises(ValueError, match=f"stride {stride}"):
            window_starts(100, 64, stride)


@given(st.sets(st.integers(0, 120), max_size=40), st.integers(0, 12))
def test_segments_against_brute_force(numbers, max_gap):
    numbers = sorted(numbers)
    runs, missing = [], None
    for index, number in enumerate(numbers):
        missing = [] if index == 0 else [m for m in range(numbers[index - 1] + 1, number)]
        if index == 0 or len(missing) > max_gap:
            runs.append([index, index])
        runs[-1][1] = index + 1
    assert segments(np.array(numbers, dtype=np.int64), max_gap) == [tuple(run) for run in runs]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Three prepared sequences: a hole of 11 numbers after frame 25; one shorter than a window; one without actions."""
    folder, result = tmp_path_factory.mktemp("windows"), []
    for name, numbers, actions in [
        ("long", [*range(1, 26), *range(37, 60)], ["walk", "sit", None]),
        ("short", range(5), ["turn"]),
        ("unlabelled", range(0, 24, 2), None),
    ]:
        rng = np.random.default_rng(len(name))
        numbers = list(numbers)
        paths = []
        for number in numbers:
            paths.append(folder / name / f"img_{number:06d}.jpg")
            paths[-1].parent.mkdir(exist_ok=True)
            cv2.imwrite(str(paths[-1]), np.full((SIZE[1], SIZE[0], 3), (number * 4, 128, 255 - number * 4), np.uint8))
        sequence = Sequence(
            name=name,
            actor=name,
            frame_paths=paths,
            frame_numbers=np.array(numbers),
            joints_3d=rng.normal(size=(len(numbers), 15, 3)),
            joints_2d=rng.uniform(0, SIZE, (len(numbers), 15, 2)),
            actions=actions and [actions[i % len(actions)] for i in range(len(numbers))],
        )
        write_prepared(folder / f"{name}.h5", sequence, CAMERA, InputView(SIZE, 32))
        result.append(PreparedSequence(folder / f"{name}.h5"))
    return result


def test_window_items(sequences):
    dataset = WindowDataset(sequences, length=10, stride=5, max_gap=10)
    assert dataset.action_names == ["sit", "turn", "walk"]
    seen = [np.zeros(len(sequence), int) for sequence in sequences]
    for index in range(len(dataset)):
        item = dataset[index]
        sequence, mask = sequences[item["sequence"]], item["mask"].numpy()
        frames = item["frames"].numpy()
        assert mask.dtype == bool and mask.shape == (10,) and (frames[~mask] == -1).all()
        frames, n = frames[mask], mask.sum()
        assert mask[:n].all() and (np.diff(frames) == 1).all()
        assert (np.diff(sequence.frame_numbers[frames]) <= 11).all()
        seen[item["sequence"]][frames] += 1
        for key, expected, dtype in [
            ("images", sequence.images(frames).transpose(0, 3, 1, 2), torch.uint8),
            ("joints_3d", sequence.joints_3d[frames], torch.float32),
            ("joints_2d", sequence.joints_view()[frames], torch.float32),
        ]:
            assert item[key].dtype == dtype and item[key].shape == (10, *expected.shape[1:])
            np.testing.assert_array_equal(item[key][:n], expected)
            assert not item[key][n:].any()
        actions = [None] * n if sequence.actions is None else [sequence.actions[i] for i in frames]
        expected = [-1 if a is None else dataset.action_names.index(a) for a in actions] + [-1] * (10 - n)
        assert item["action"].tolist() == expected and item["action"].dtype == torch.int64
    assert all((count > 0).all() for count in seen)
    # 25 and 23 frames on either side of the hole, 5 padded to 10, 12 of every second number.
    assert [w[1:] for w in dataset.windows if w[0] == 0][:4] == [(0, 10), (5, 15), (10, 20), (15, 25)]
    assert [w[1:] for w in dataset.windows if w[0] == 0][-1] == (38, 48)
    assert [w[1:] for w in dataset.windows if w[0] == 1] == [(0, 5)]
    assert [w[1:] for w in dataset.windows if w[0] == 2] == [(0, 10), (2, 12)]


@pytest.mark.parametrize("step", [2, 3, 8, 30])
def test_windows_of_every_nth_frame(sequences, step):
    dataset = WindowDataset(sequences, length=4, stride=2, max_gap=10, step=step)
    found = [set() for _ in sequences]
    for index in range(len(dataset)):
        item = dataset[index]
        frames = item["frames"][item["mask"]].numpy()
        sequence = sequences[item["sequence"]]
        assert len(frames) == item["mask"].sum() <= 4 and (np.diff(frames) == step).all()
        np.testing.assert_array_equal(item["joints_3d"][: len(frames)], sequence.joints_3d[frames])
        found[item["sequence"]] |= {tuple(frames.tolist())}
    # Brute force: each interleaved run of each stretch without a hole, cut as a sequence of its own.
    for number, (sequence, parts) in enumerate(zip(sequences, [[(0, 25), (25, 48)], [(0, 5)], [(0, 12)]], strict=True)):
        runs = [list(range(stop))[start:][offset::step] for start, stop in parts for offset in range(step)]
        expected = {tuple(run[i : i + 4]) for run in runs if run for i in window_starts(len(run), 4, 2)}
        assert found[number] == expected
        assert set().union(*expected) == set(range(len(sequence)))


def test_a_hole_within_the_limit_is_crossed(sequences):
    assert any(start < 25 < stop for _, start, stop in WindowDataset(sequences[:1], 10, 5, max_gap=11).windows)
    assert not any(start < 25 < stop for _, start, stop in WindowDataset(sequences[:1], 10, 5, max_gap=10).windows)


def test_items_are_copies(sequences):
    dataset = WindowDataset(sequences, length=10, stride=5)
    before = sequences[0].joints_3d.copy()
    dataset[0]["joints_3d"].zero_()
    dataset[0]["joints_2d"].zero_()
    np.testing.assert_array_equal(sequences[0].joints_3d, before)
    assert dataset[0]["joints_2d"].any()


def test_a_source_stands_in_for_the_images(sequences):
    class Features:
        def read(self, sequence, frames):
            return {"features": np.stack([frames, frames + 100 * sequence], -1).astype(np.float16)}

    dataset = WindowDataset(sequences, length=10, stride=5, source=Features(), action_names=["walk", "jump"])
    for item in (dataset[i] for i in range(len(dataset))):
        assert "images" not in item and item["features"].shape == (10, 2)
        frames, mask = item["frames"][item["mask"]], item["mask"]
        assert item["features"][mask].tolist() == torch.stack([frames, frames + 100 * item["sequence"]], -1).tolist()
        assert not item["features"][~mask].any()
        assert set(item["action"].tolist()) <= {0, -1}  # of these names only "walk" occurs


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_in_batches(sequences, workers):
    dataset = WindowDataset(sequences, length=10, stride=5)
    # The parent's file is open by now, which forked workers must not share.
    expected = torch.stack([dataset[i]["images"] for i in range(len(dataset))])
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers))
    assert torch.equal(torch.cat([batch["images"] for batch in batches]), expected)
    assert batches[0]["sequence"].dtype == torch.int64 and batches[0]["mask"].shape == (4, 10)


def test_planes_are_the_images_with_their_axes_turned(make_sequence):
    sequence = make_sequence("planes/a", range(5))
    for indices in ([4, 0, 4], slice(1, 3), []):
        images = sequence.images(indices)
        assert np.array_equal(sequence.planes(indices), images.transpose(0, 3, 1, 2))
    images = sequence.images([0])
    assert not np.array_equal(images[..., 0], images[..., 2])
    out = np.full((7, 3, 32, 32), 9, np.uint8)
    sequence.planes([1, 2], out=out[2:4])
    assert np.array_equal(out[2:4].transpose(0, 2, 3, 1), sequence.images([1, 2]))
    assert (out[:2] == 9).all() and (out[4:] == 9).all()
    sequence.close()
    assert np.array_equal(sequence.images([0]), images)


@pytest.mark.parametrize("size", [None, 16])
def test_single_frames(sequences, size):
    dataset = FrameDataset(sequences, size)
    assert len(dataset) == 48 + 5 + 12
    places = [(s, f) for s, sequence in enumerate(sequences) for f in range(len(sequence))]
    for index in (0, 47, 48, 52, 53, 64, -1):
        item = dataset[index]
        number, frame = places[index]
        assert (item["sequence"], item["frame"]) == (number, frame)
        side = size or 32
        assert item["image"].shape == (3, side, side) and item["image"].dtype == torch.uint8
        # Frames are of one colour: red falls, blue rises with the frame's number.
        value = int(sequences[number].frame_numbers[frame]) * 4
        assert np.allclose(item["image"].float().mean((1, 2)), [255 - value, 128, value], atol=3)
        full = sequences[number].joints_2d[frame]
        expected = (full + 0.5) * (side / SIZE[0], side / SIZE[1]) - 0.5
        np.testing.assert_allclose(item["joints"], expected, atol=1e-4)
        assert item["joints"].dtype == torch.float32
    for index in (65, -66):
        with pytest.raises(IndexError):
            dataset[index]
    assert len(FrameDataset([])) == len(WindowDataset([])) == 0


class Numbered(Dataset):
    """Items large enough for lent memory beside small ones; item 7 cannot be read once `broken`."""

    broken = False

    def __len__(self):
        return 30

    def __getitem__(self, item):
        if item == 7 and self.broken:
            raise OSError("gone")
        return {"large": torch.full((200, 100), item, dtype=torch.int32), "small": torch.tensor([item]), "number": item}


def whole(batch, items):
    """Whether a batch holds these items and nothing else."""
    large = torch.tensor(items, dtype=torch.int32).view(-1, 1, 1).expand(-1, 200, 100)
    same = torch.equal(batch["large"], large) and batch["small"].tolist() == [[i] for i in items]
    return same and batch["number"].tolist() == items and set(batch) == {"large", "small", "number"}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_lent_batches_are_whole_while_they_are_used(workers):
    rng = np.random.default_rng(workers)
    order = [rng.choice(30, size, replace=False).tolist() for size in (3, 1, 2, 4, 2, 1, 3, 4) * 4]
    watched = Watched(Numbered(), workers)
    loader = make_loader(watched, order, workers)
    for _ in range(2):
        held = []
        for batch, items in zip(watched.batches(loader), order, strict=True):
            assert whole(batch, items)
            held.append(batch["large"])
        if workers:
            assert not watched._lent.any()
        # The same memory again, which is what lending is for.
        kept = [bool((large[:, 0, 0] == torch.tensor(items)).all()) for large, items in zip(held, order, strict=True)]
        assert all(kept) == (workers == 0)


def test_batches_that_nobody_gives_back_stay():
    order = [[i, (i + 3) % 30] for i in range(30)]
    watched = Watched(Numbered(), 2)
    batches = list(make_loader(watched, order, 2))
    lent = {batch.owner for batch in batches if not isinstance(batch, dict)}
    assert len(lent) == 2 * BUFFERS < len(batches)
    batches = watched.batches(batches)
    assert all(whole(batch, items) for batch, items in zip(batches, order, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_cannot_be_read_says_which_item(workers, monkeypatch):
    monkeypatch.setattr(Numbered, "broken", True)
    watched = Watched(Numbered(), workers)
    with pytest.raises(TrainingError, match="reading item 7: OSError: gone"):
        list(watched.batches(make_loader(watched, [[1, 2], [6, 7], [8, 9]], workers)))


def test_items_of_another_kind_are_sent_as_torch_does():
    class Named(Numbered):
        def __getitem__(self, item):
            return super().__getitem__(item) | {"name": f"item {item}", "more": {"half": item / 2}}

    watched = Watched(Named(), 1)
    (batch,) = watched.batches(make_loader(watched, [[3, 5]], 1))
    assert batch.pop("name") == ["item 3", "item 5"] and batch.pop("more")["half"].tolist() == [1.5, 2.5]
    assert whole(batch, [3, 5])
