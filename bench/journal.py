"""The yardstick over the wire: what a synced journal costs when each answer waits for its own.

A queue in memory with a journal beside it, on Tornado, as RedQueue was: each `set`, each `get`
and each `delete` appends a record and is answered after the disk has it. It keeps nothing else
of a queue: no lease, no cap, no reading back.
"""

import asyncio
import os
import sys
from collections import deque
from pathlib import Path

from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpserver import TCPServer


class Journal(TCPServer):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._bodies: deque[bytes] = deque()

    async def handle_stream(self, stream: IOStream, address: tuple[object, ...]) -> None:
        stream.set_nodelay(True)
        lent: bytes | None = None
        try:
            while True:
                words = (await stream.read_until(b"\r\n")).split()
                match words:
                    case [b"set", key, _, _, size]:
                        body = await stream.read_bytes(int(size) + 2)
                        self._write(b"S %d\r\n%s" % (int(size), body))
                        self._bodies.append(body)
                        await stream.write(b"STORED\r\n")
                    case [b"get", key] if self._bodies:
                        lent = self._bodies.popleft()
                        self._write(b"B\r\n")
                        answer = b"VALUE %s 0 %d\r\n%sEND\r\n" % (key, len(lent) - 2, lent)
                        await stream.write(answer)
                    case [b"get", _]:
                        await stream.write(b"END\r\n")
                    case [b"delete", _] if lent is not None:
                        self._write(b"U\r\n")
                        lent = None
                        await stream.write(b"DELETED\r\n")
                    case _:
                        await stream.write(b"ERROR\r\n")
        except StreamClosedError:
            pass  # the client has gone

    def _write(self, record: bytes) -> None:
        os.write(self._file, record)
        os.fdatasync(self._file)


async def serve(port: int, path: Path) -> None:
    Journal(path).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
