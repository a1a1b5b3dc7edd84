"""Worker processes: they end when the process that they work for is killed, idle or busy."""

import os
import signal
import subprocess
import sys
import time

import pytest

# One worker sleeps, the other has nothing to do.
PARENT = """
import time
from agego_lib.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        [future.result() for future in [pool.submit(time.sleep, 0.5) for _ in range(2)]]
        busy = pool.submit(time.sleep, 600)
        print(*pool._processes, flush=True)
        busy.result()
"""


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        assert len(workers) == 2
        assert all(map(_alive, workers))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        until = time.monotonic() + 60
        while any(map(_alive, workers)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(_alive, workers))
    finally:
        parent.kill()
        for pid in filter(_alive, workers):
            os.kill(pid, signal.SIGKILL)
