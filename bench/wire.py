"""Clients of a queue that speaks memcached's text protocol, and how fast they are served.

All clients of a load stand in one thread, each with one question on its way; so they cost the
machine next to nothing, and a server is asked by as many at once as it is told.
"""

import selectors
import socket
import time
from collections.abc import Generator

# What a client does: it gives questions, and is handed each answer.
Dialogue = Generator[bytes, bytes, None]

LINE = b"bench"
BODY = b"x" * 100
_SET = b"set %s 0 0 %d\r\n%s\r\n" % (LINE, len(BODY), BODY)
_GET = b"get %s\r\n" % LINE
_DELETE = b"delete %s\r\n" % LINE


def setting(items: int) -> Dialogue:
    for _ in range(items):
        answer = yield _SET
        assert answer == b"STORED\r\n", answer


def getting_and_deleting(items: int) -> Dialogue:
    for _ in range(items):
        answer = yield _GET
        assert answer.startswith(b"VALUE ") and BODY in answer, answer
        answer = yield _DELETE
        assert answer == b"DELETED\r\n", answer


def set_by(clients: int, items: int, port: int) -> float:
    return _rate(port, [setting(items // clients) for _ in range(clients)], items)


def get_and_delete_by(clients: int, items: int, port: int) -> float:
    return _rate(port, [getting_and_deleting(items // clients) for _ in range(clients)], items)


def _rate(port: int, dialogues: list[Dialogue], items: int) -> float:
    """Items a second that these dialogues got through."""
    items -= items % len(dialogues)
    with selectors.DefaultSelector() as selector:
        talking = [_Client(port, dialogue) for dialogue in dialogues]
        began = time.perf_counter()
        for client in talking:
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.begin()
        open_ones = len(talking)
        while open_ones:
            heard = selector.select(timeout=30)
            assert heard, "the server said nothing for 30 seconds"
            for key, _ in heard:
                if not key.data.go_on():
                    selector.unregister(key.fileobj)
                    open_ones -= 1
        took = time.perf_counter() - began
        for client in talking:
            client.socket.close()
    return items / took


class _Client:
    def __init__(self, port: int, dialogue: Dialogue) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._dialogue = dialogue
        self._heard = b""

    def begin(self) -> None:
        self.socket.sendall(next(self._dialogue))

    def go_on(self) -> bool:
        """Whether there is more to ask."""
        more = self.socket.recv(65_536)
        assert more, "the server closed the connection"
        self._heard += more
        # An answer ends with its only line, or, where a value is sent, with END.
        value = self._heard.startswith(b"VALUE ")
        if not self._heard.endswith(b"END\r\n" if value else b"\r\n"):
            return True
        answer, self._heard = self._heard, b""
        try:
            self.socket.sendall(self._dialogue.send(answer))
        except StopIteration:
            return False
        return True
