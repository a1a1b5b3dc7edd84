"""Kernels that start at once, for tests that run notebooks: forked from a process that has imported what takes longest.

Some fifty kernels start in `make test`, and importing torch and its kin would take each of them seven seconds. The
project's own modules are imported by each kernel anew, from where it would find them. Run as a program, this is what
Jupyter takes for the kernel: it asks the waiting process for one, hands its own variables, folder and streams over, and
passes signals on.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

# Nothing of the project; nor pandas, which looks at once whether it is in a notebook.
MODULES = (
    "torch", "torchvision", "lightning_fabric", "cv2", "h5py", "jaxtyping", "pydantic", "scipy.signal",
    "plotly.graph_objects", "ipykernel.kernelapp",
)  # fmt: skip


@contextmanager
def warm_kernels(folder):
    """While the block lasts, a process that kernels are forked from -> variables by which Jupyter finds it."""
    place, spec = Path(folder) / "server", Path(folder) / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-IS", __file__, str(place), "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    # Bound here, so that who comes early waits.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        command = [sys.executable, __file__, str(server.fileno())]
        waiting = subprocess.Popen(command, pass_fds=[server.fileno()])
    try:
        yield {"JUPYTER_PATH": str(folder)}
    finally:
        waiting.terminate()
        waiting.wait()


def serve(server):
    """Import, then fork one process for each that asks. The child it is that returns, with what it was asked."""
    for name in MODULES:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the dead
    while True:
        asking, _ = server.accept()
        if os.fork():
            asking.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        message, streams, *_ = socket.recv_fds(asking, 1 << 20, 3)
        while not message.endswith(b"\n"):
            message += asking.recv(1 << 20)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.setsid()  # a group of its own, as the kernel of a Jupyter program has
        asking.sendall(f"{os.getpid()}\n".encode())
        return asking, json.loads(message)


def become(asking, wish):
    """Be the kernel that was asked for, and end when who asked has ended."""

    def follow():
        asking.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
    os.chdir(wish["folder"])
    os.environ.clear()
    os.environ.update(wish["variables"])
    # Which a kernel looks for from time to time.
    os.environ["JPY_PARENT_PID"] = str(os.getppid())
    sys.path[0:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["ipykernel_launcher", *wish["arguments"]]
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


def ask(place, *arguments):
    """Have a kernel forked, and be it to whom started this: its signals, its end."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        wish = {"folder": os.getcwd(), "variables": dict(os.environ), "arguments": arguments}
        socket.send_fds(server, [json.dumps(wish).encode() + b"\n"], [0, 1, 2])
        pid = int(server.makefile().readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        server.recv(1)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        become(*serve(socket.socket(fileno=int(sys.argv[1]))))
    else:
        ask(*sys.argv[1:])
