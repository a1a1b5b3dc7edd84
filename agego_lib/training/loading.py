"""Which items make which batch, on one process or several, and readers that say what they were reading."""

import os
import re
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from agego_lib.training.checkpoints import TrainingError

# Of each worker: for the two batches that wait (torch's default), one in use, one being made, and one to spare.
BUFFERS = 5
ALIGNED = 64  # bytes


class _Lent:
    """A batch in a worker's memory, which the main process has mapped once and says when it may be used again.

    Sent as it is by torch, every tensor of every batch is a new file in shared memory: opened, passed on, mapped, and
    a page fault for each 4 kB of it. For frames that takes half as long as decoding them.
    owner: (worker, number of the buffer). buffer: its memory where that is new. places: {key: (dtype, byte, shape)}.
    """

    # No dataclass: into those Fabric looks for what it could move to a device.
    def __init__(self, owner, buffer, places):
        self.owner, self.buffer, self.places = owner, buffer, places


def _tensor(buffer, dtype, start, shape):
    return torch.empty(0, dtype=dtype).set_(buffer, start // dtype.itemsize, shape)


class BatchOrder(Sampler):
    """The batches of a run: in each epoch a permutation of all items, cut into batches of `batch_size`.

    The items left over, fewer than a batch, are left out of that epoch. The order follows from `seed` and the epoch
    alone. A batch is global: the rank-th of `ranks` processes reads its own share of it, so that the order of a run
    does not depend on how many there are.
    """

    def __init__(self, items, batch_size, seed, rank=0, ranks=1):
        self.items, self.batch_size, self.seed, self.rank, self.ranks = items, batch_size, seed, rank, ranks
        self.start(0)

    def start(self, epoch, first=0):
        """Iterate over this epoch next, from its batch `first` on."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(epoch + 1):
            # The draws of torch's DataLoader and RandomSampler: a seed for workers, the order, and one more order.
            torch.empty((), dtype=torch.int64).random_(generator=generator)
            order = torch.randperm(self.items, generator=generator)
            torch.randperm(self.items, generator=generator)
        whole = self.items // self.batch_size * self.batch_size
        self.batches = order[:whole].view(-1, self.batch_size).tolist()
        self.first = first

    def share(self, batch):
        """This process's part of a global batch, a list of items: of sizes that differ by one at most."""
        ends = [len(batch) * i // self.ranks for i in range(self.ranks + 1)]
        return batch[ends[self.rank] : ends[self.rank + 1]]

    def __iter__(self):
        return (self.share(batch) for batch in self.batches[self.first :])

    def __len__(self):
        return self.items // self.batch_size


def describe(dataset, item):
    """Which sequence and frames an item holds, as a dict; `dataset.describe(item)` where it has that."""
    return dataset.describe(item) if hasattr(dataset, "describe") else {"item": item}


class Watched(Dataset):
    """A data set whose errors name what was being read, also where a worker process dies over it.

    lend: whether workers send batches in memory that they use again, see `batches`.
    """

    def __init__(self, dataset, workers, lend=True):
        self.dataset, self._lend = dataset, lend
        # Of each worker: its process and the item it reads, in memory that outlives it.
        self._reading = torch.full((workers, 2), -1).share_memory_() if workers else None
        # Of each worker: which of its shared buffers hold a batch that is waited for or in use.
        self._lent = torch.zeros(workers, BUFFERS, dtype=torch.bool).share_memory_() if workers else None
        self._buffers = {}

    def __len__(self):
        return len(self.dataset)

    def _text(self, item):
        return ", ".join(f"{key} {value}" for key, value in describe(self.dataset, item).items())

    def __getitem__(self, item):
        worker = get_worker_info()
        if worker is not None:
            self._reading[worker.id] = torch.tensor([os.getpid(), item])
        try:
            return self.dataset[item]
        except Exception as error:
            raise TrainingError(f"reading {self._text(item)}: {type(error).__name__}: {error}") from error

    def __getitems__(self, items):
        """A batch, collated; from a worker as `_Lent`, where there is a buffer that nobody uses."""
        read, worker = [self[item] for item in items], get_worker_info()
        free = [] if worker is None or not self._lend else (~self._lent[worker.id]).nonzero().flatten().tolist()
        if not free or not isinstance(read[0], dict):
            return default_collate(read)
        columns = {key: [item[key] for item in read] for key in read[0]}
        # Tensors are joined where they shall lie; numbers become tensors before, and what does not is sent as it is.
        columns = {k: c if torch.is_tensor(c[0]) else default_collate(c) for k, c in columns.items()}
        if not all(torch.is_tensor(c) or (isinstance(c, list) and torch.is_tensor(c[0])) for c in columns.values()):
            return default_collate(read)
        places, end = {}, 0
        for key, column in columns.items():
            places[key] = column[0].dtype, end, (len(column), *column[0].shape)
            end += -(-len(column) * column[0].nbytes // ALIGNED) * ALIGNED
        buffer, new = self._buffers.get(free[0]), False
        if buffer is None or buffer.nbytes() < end:
            buffer, new = torch.UntypedStorage._new_shared(end), True
            self._buffers[free[0]] = buffer
        for key, column in columns.items():
            torch.stack([*column], out=_tensor(buffer, *places[key]))
        self._lent[worker.id, free[0]] = True
        return _Lent((worker.id, free[0]), buffer if new else None, places)

    def batches(self, loader):
        """The batches of a loader of this data set. What workers sent in one is valid until the next is asked for."""
        for batch in loader:
            if not isinstance(batch, _Lent):
                yield batch
                continue
            if batch.buffer is not None:
                self._buffers[batch.owner] = batch.buffer
            yield {key: _tensor(self._buffers[batch.owner], *place) for key, place in batch.places.items()}
            self._lent[batch.owner] = False

    @contextmanager
    def naming_dead_workers(self):
        """Turns torch's error about a worker that died into a TrainingError that names what it was reading."""
        try:
            yield
        except RuntimeError as error:
            dead = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
            if dead is None:
                raise
            dead = {int(number) for number in dead[1].split(",")}
            found = [self._text(item) for process, item in self._reading.tolist() if process in dead and item >= 0]
            raise TrainingError(
                f"a loader worker died while reading {' and '.join(found) or 'nothing yet'} ({error}); if memory ran "
                "out, lower engine.workers"
            ) from error


def _as_it_is(batch):
    return batch


def make_loader(watched, batches, workers, seed=0, pin_memory=False):
    """A DataLoader of a Watched data set, to go through with its `batches`.

    batches: an iterable of lists of items. seed: of the workers.
    """
    return DataLoader(
        watched,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        # Its own, so that workers' seeds take no draw from the global generator.
        generator=torch.Generator().manual_seed(seed),
    )
