"""Where the joints of live frames go, one frame after the other: lines of JSON, WebSocket clients, OSC over UDP."""

import asyncio
import json
import socket
import struct
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlparse

from agego_lib.skeleton import JOINT_NAMES
from agego_video.video import VideoError

HERE = ("localhost", "127.0.0.1", "::1")
_NTP = 2_208_988_800  # seconds from 1900, where OSC's time starts, to 1970


def as_json(number, seconds, joints, fov=None):
    """A frame's number, its time in seconds and its joints (15, 3) in metres -> one line of JSON, to micrometres.

    fov: degrees, of a lens that is assumed; said in the line.
    """
    named = {name: [round(float(v), 6) for v in joint] for name, joint in zip(JOINT_NAMES, joints, strict=True)}
    assumed = {} if fov is None else {"assumed_fov_deg": fov}
    return json.dumps({"frame": int(number), "seconds": round(float(seconds), 6), "joints": named} | assumed)


class Lines:
    """Each frame's JSON as a line of a file, or of standard output, "-". The file is opened for the first frame.

    Raises VideoError where the file cannot be written; BrokenPipeError where nobody reads standard output any more.
    """

    def __init__(self, path):
        self.path, self._file = path, sys.stdout if path == "-" else None

    def send(self, line, joints, clock):
        try:
            if self._file is None:
                self._file = Path(self.path).open("w")
            self._file.write(line + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise VideoError(f"--out {self.path}: cannot be written ({error}); name another file") from None

    def close(self):
        if self._file not in (None, sys.stdout):
            self._file.close()


def _padded(text):
    """OSC's texts end with a zero, and with so many of them that their length is a multiple of four."""
    data = text.encode("ascii")
    return data + bytes(4 - len(data) % 4)


def osc_bundle(joints, clock, fov=None):
    """Joints (15, 3) in metres -> one OSC bundle: a message /agego/JOINT with x, y, z for each.

    clock: Unix time of the frame, seconds, which is the bundle's time tag. fov: degrees, of a lens that is assumed: one
    more message, /agego/assumed_fov_deg.
    """
    whole = int(clock)
    parts = [_padded("#bundle"), struct.pack(">II", (whole + _NTP) % 2**32, int((clock - whole) * 2**32))]
    values = [*zip(JOINT_NAMES, joints, strict=True), *([] if fov is None else [("assumed_fov_deg", [fov])])]
    for name, numbers in values:
        message = _padded(f"/agego/{name}") + _padded("," + "f" * len(numbers))
        message += struct.pack(f">{len(numbers)}f", *numbers)
        parts += [struct.pack(">i", len(message)), message]
    return b"".join(parts)


class Osc:
    """Each frame's joints as one OSC bundle in one UDP datagram. Raises VideoError where they cannot be sent."""

    def __init__(self, host, port, fov=None):
        self.name, self._fov = f"--osc {host}:{port}", fov
        try:
            family, kind, protocol, _, self._to = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
        except OSError as error:
            raise VideoError(f"{self.name}: no such host ({error}); expected HOST:PORT of the receiver") from None

    def send(self, line, joints, clock):
        try:
            self._socket.sendto(osc_bundle(joints, clock, self._fov), self._to)
        except OSError as error:
            raise VideoError(f"{self.name}: cannot be sent to ({error}); check the network") from None

    def close(self):
        self._socket.close()


class WebSocket:
    """Each frame's JSON as a message to every WebSocket client, of a server in a thread of its own.

    port: 0 for any that is free; `port` is then its number. host: where it listens. Pages that come from another
    machine than this one or the server's are refused: any page that a browser shows could read the poses otherwise. A
    client that does not keep up misses frames. Raises VideoError where there is no tornado, or the port is taken.
    """

    def __init__(self, host, port):
        self._clients, started = set(), Future()
        try:
            import tornado.web  # noqa: F401, comes with Jupyter, not with the library alone
        except ImportError:
            raise VideoError("--websocket needs the package tornado: pip install tornado") from None
        self._thread = threading.Thread(target=self._run, args=(host, port, started), daemon=True)
        self._thread.start()
        try:
            self.port = started.result()
        except OSError as error:
            raise VideoError(f"--websocket {host}:{port}: cannot listen there ({error}); choose another port") from None

    def _run(self, host, port, started):
        try:
            asyncio.run(self._serve(host, port, started))
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, host, port, started):
        from tornado.httpserver import HTTPServer
        from tornado.netutil import bind_sockets
        from tornado.web import Application
        from tornado.websocket import WebSocketHandler

        clients = self._clients

        class Client(WebSocketHandler):
            pending = None

            def check_origin(self, origin):
                return urlparse(origin).hostname in HERE or super().check_origin(origin)

            def open(self):
                clients.add(self)

            def on_message(self, message):
                pass  # clients have nothing to say

            def on_close(self):
                clients.discard(self)

            def give(self, line):
                if self.pending is None or self.pending.done():
                    self.pending = self.write_message(line)
                    # One that has just gone is taken out by on_close.
                    self.pending.add_done_callback(lambda sent: sent.exception())

        server = HTTPServer(Application([("/", Client)]))
        sockets = bind_sockets(port, host)
        server.add_sockets(sockets)
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(sockets[0].getsockname()[1])
        await self._ending.wait()
        server.stop()
        for client in [*clients]:
            client.close()
        await server.close_all_connections()

    def _give(self, line):
        for client in [*self._clients]:
            client.give(line)

    def send(self, line, joints, clock):
        self._loop.call_soon_threadsafe(self._give, line)

    def close(self):
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(2.0)
