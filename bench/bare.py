"""The yardstick: a bare Tornado handler that answers a poll body of about the same length.

It has what any server would have, the same event loop and the same limits; nothing else.
"""

import asyncio
import json
import sys

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

try:
    import uvloop
except ImportError:  # an extra: without it the product runs on asyncio's loop as well
    uvloop = None  # type: ignore[assignment]

BODY = {"rev": 1, "text": "x" * 560}


class Bare(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(BODY))

    def post(self) -> None:
        json.loads(self.request.body)
        self.set_status(201)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(BODY))


async def serve(port: int) -> None:
    quiet = Application([("/.*", Bare)], log_function=lambda handler: None)
    limits = {"max_body_size": 65_536, "idle_connection_timeout": 20, "body_timeout": 10}
    HTTPServer(quiet, **limits).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        runner.run(serve(int(sys.argv[1])))
