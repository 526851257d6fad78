"""The yardstick: a bare Tornado handler that answers a poll body of the same length."""

import asyncio
import json
import sys

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

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
    HTTPServer(quiet).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
