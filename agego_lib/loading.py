"""Which items make which batch, on one process or several, and readers that say what they were reading."""

import os
import re
from contextlib import contextmanager

import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from agego_lib.checkpoints import TrainingError


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
    """A data set whose errors name what was being read, also where a worker process dies over it."""

    def __init__(self, dataset, workers):
        self.dataset = dataset
        # Of each worker: its process and the item it reads, in memory that outlives it.
        self._reading = torch.full((workers, 2), -1).share_memory_() if workers else None

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
