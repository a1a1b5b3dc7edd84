"""Kernels and commands that start at once, for tests that run the pipeline: forked from a process that has imported
what takes longest.

Hundreds of processes start in `make test`, and importing torch and its kin takes seven seconds, DVC's parts one. The
project's own modules are imported by each anew, from where it would find them. Run as a program, this is what Jupyter
takes for the kernel, and the shell for `python` and `dvc`: it asks the waiting process for one, hands its own
arguments, variables, folder and streams over, passes signals on, and ends as that one does.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

# Nothing of the project; nor pandas, which looks at once whether it is in a notebook.
MODULES = (
    "torch", "torchvision", "lightning_fabric", "cv2", "h5py", "jaxtyping", "pydantic", "scipy.signal",
    "plotly.graph_objects", "ipykernel.kernelapp", "papermill", "nbconvert.nbconvertapp", "dvc.cli", "dvc.repo",
    "dvc.commands.repro",
)  # fmt: skip


@contextmanager
def warm_processes(folder):
    """While the block lasts, a process that others are forked from -> variables by which Jupyter and shells find it."""
    place, spec = Path(folder) / "server", Path(folder) / "kernels/python3/kernel.json"
    own = Path(sys.executable).parent
    spec.parent.mkdir(parents=True)
    kernel = [sys.executable, "-IS", __file__, str(place), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": kernel, "display_name": "Python 3", "language": "python"}))
    for name, first in (("python", ""), ("dvc", own / "dvc")):
        command = Path(folder) / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" "{place}" {first} "$@"\n')
        command.chmod(0o755)
    # Bound here, so that who comes early waits.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        command = [sys.executable, __file__, str(server.fileno())]
        waiting = subprocess.Popen(command, pass_fds=[server.fileno()])
    try:
        yield {"JUPYTER_PATH": str(folder), "PATH": os.pathsep.join((f"{folder}/bin", str(own), os.environ["PATH"]))}
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
    """Be the Python that was asked for, with its arguments, and end when who asked has ended."""
    code = 1

    def follow():
        asking.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)

    def finish():
        # Who asked ends with this, and what is not written then is lost.
        sys.stdout.flush()
        sys.stderr.flush()
        asking.sendall(bytes([code]))

    atexit.register(finish)  # the first that is registered is the last to run
    threading.Thread(target=follow, daemon=True).start()
    os.chdir(wish["folder"])
    os.environ.clear()
    os.environ.update(wish["variables"])
    # Which a kernel looks for from time to time.
    os.environ["JPY_PARENT_PID"] = str(os.getppid())
    how, *arguments = wish["arguments"]
    places = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        if how in ("-m", "-c"):
            what, *arguments = arguments
            sys.path[0:1] = [os.getcwd(), *places]
            sys.argv = [how, *arguments]
            if how == "-m":
                runpy.run_module(what, run_name="__main__", alter_sys=True)
            else:
                exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
        else:
            sys.path[0:1] = [str(Path(how).resolve().parent), *places]
            sys.argv = [how, *arguments]
            runpy.run_path(how, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()


def ask(place, *arguments):
    """Have a process forked, and be it to whom started this: its signals, its end."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        wish = {"folder": os.getcwd(), "variables": dict(os.environ), "arguments": arguments}
        socket.send_fds(server, [json.dumps(wish).encode() + b"\n"], [0, 1, 2])
        pid = b""
        while not pid.endswith(b"\n"):
            pid += server.recv(1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(int(pid), number))
        # One that was killed says nothing.
        said = server.recv(1)
    sys.exit(said[0] if said else 1)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        become(*serve(socket.socket(fileno=int(sys.argv[1]))))
    else:
        ask(*sys.argv[1:])
