"""What this process has answered, counted as requests end."""

import logging
from collections import Counter

from tornado.web import RequestHandler

log = logging.getLogger("nowserving.access")


class Counts:
    def __init__(self) -> None:
        self.polls = 0  # these two on the fast lane
        self.joins = 0
        self.answers: Counter[tuple[str, int]] = Counter()

    def answered(self, handler: RequestHandler) -> None:
        """Tornado's `log_function`. The path is told and nothing else: no query, no cookie."""
        status = handler.get_status()
        self.answers[type(handler).__name__, status] += 1
        level = logging.WARNING if status >= 500 else logging.DEBUG
        if log.isEnabledFor(level):
            request = handler.request
            taken = 1000 * request.request_time()
            log.log(level, "%d %s %s %.1f ms", status, request.method, request.path, taken)
