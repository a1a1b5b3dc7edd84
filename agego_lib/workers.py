"""Processes that share work on frames."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor

import cv2


def worker_pool(workers) -> ProcessPoolExecutor:
    """`workers` processes of one OpenCV thread each, as they fill the cores already, which end when this one does.

    Spawned, since forking a process that runs threads (a notebook, PyTorch, OpenCV) may hang it.
    """
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin():
    cv2.setNumThreads(1)
    # A parent that is killed tells nobody, and a worker without it would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
