"""The plan of the building: every address, and who answers it.

Lines, jobs and all else come in `Parts`, which only the front door fills. Limits that belong
to the server and not to a page stand in `server_options`.
"""

from typing import Any

from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import URLSpec
from tornado.web import Application

from handlers import admin, base, desk, health, waiting, wall
from handlers.base import LARGEST_BODY_BYTES, Nowhere, Static, TicketPaper, TooLarge, WrongHost
from handlers.counts import Counts
from handlers.door import Door
from handlers.lane import Entrance, FastLane
from handlers.parts import Parts
from handlers.wire import PollText

LINE = "([^/]+)"
NUMBER = "([^/]+)"
VERB = "([a-z-]+)"


def application(parts: Parts) -> "Building":
    return Building(parts)


def server_options(parts: Parts) -> dict[str, Any]:
    """Keyword arguments for Tornado's `HTTPServer`.

    Its own defaults let a hundred slow clients hold a hundred connections for an hour.
    """
    return {
        "max_body_size": LARGEST_BODY_BYTES,
        "max_header_size": 16_384,
        "idle_connection_timeout": 20,
        "body_timeout": 10,
        "xheaders": bool(parts.trusted_proxies),
        "trusted_downstream": list(parts.trusted_proxies),
    }


class Building(Application):
    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.counts = Counts()
        # Made once for each line: what a ticket looks like outside, and what many answers share.
        papers = {name: TicketPaper(parts, name) for name in parts.lines}
        texts = {name: PollText(desk, parts.build) for name, desk in parts.desks.items()}
        self.lane = FastLane(parts, papers, texts, self.counts)
        door = Door(parts.operators, parts.session_keys, parts.clock, parts.session_seconds)
        anybody = {"parts": parts}
        staff = {"parts": parts, "door": door}

        lines = f"/lines/{LINE}"
        api = f"/api/lines/{LINE}"
        admin_lines = f"/admin/lines/{LINE}"
        admin_api = f"/api/admin/lines/{LINE}"

        super().__init__(
            [
                # Most polls never get here: `lane.py` answers them.
                URLSpec(f"{api}/ticket", waiting.PollApi, anybody),
                URLSpec("/api/lines", wall.LinesApi, anybody),
                URLSpec(api, wall.LineApi, anybody),
                URLSpec(f"{api}/tickets", waiting.TakeApi, anybody),
                URLSpec(f"{api}/ticket/job", desk.JobApi, anybody),
                URLSpec(f"{api}/ticket/retry", desk.RetryApi, anybody),
                URLSpec(f"{api}/ticket/{VERB}", waiting.VerbApi, anybody),
                URLSpec(admin_api, admin.OverviewApi, staff),
                URLSpec(f"{admin_api}/{VERB}", admin.LineVerbApi, staff),
                URLSpec(f"{admin_api}/tickets/{NUMBER}/{VERB}", admin.TicketVerbApi, staff),
                URLSpec(f"{admin_api}/jobs/{NUMBER}/{VERB}", admin.JobVerbApi, staff),
                URLSpec(f"{admin_api}/work/{VERB}", admin.WorkVerbApi, staff),
                #
                URLSpec("/", wall.FrontPage, anybody),
                URLSpec(lines, waiting.QueuePage, anybody),
                URLSpec(f"{lines}/take", waiting.TakePage, anybody),
                URLSpec(f"{lines}/wall", wall.WallPage, anybody),
                URLSpec(f"{lines}/desk", desk.DeskPage, anybody),
                URLSpec(f"{lines}/desk/(extend|retry)", desk.DeskVerbPage, anybody),
                URLSpec(f"{lines}/{VERB}", waiting.VerbPage, anybody),
                URLSpec("/language", wall.LanguagePage, anybody),
                URLSpec("/problems/([a-z-]+)", base.ProblemPage, anybody),
                #
                URLSpec("/admin", admin.AdminPage, staff),
                URLSpec("/admin/sign-in", admin.SignInPage, staff),
                URLSpec("/admin/sign-out", admin.SignOutPage, staff),
                URLSpec(admin_lines, admin.LinePage, staff),
                URLSpec(f"{admin_lines}/{VERB}", admin.LineVerbPage, staff),
                URLSpec(f"{admin_lines}/tickets/{NUMBER}/{VERB}", admin.TicketVerbPage, staff),
                URLSpec(f"{admin_lines}/jobs/{NUMBER}/{VERB}", admin.JobVerbPage, staff),
                URLSpec(f"{admin_lines}/work/{VERB}", admin.WorkVerbPage, staff),
                #
                URLSpec("/healthz", health.AlivePage, anybody),
                URLSpec("/readyz", health.ReadyPage, anybody),
                URLSpec("/metrics", health.MetricsPage, {"parts": parts, "counts": self.counts}),
            ],
            default_handler_class=Nowhere,
            default_handler_args=anybody,
            static_path=str(parts.static_path),
            static_handler_class=Static,
            static_handler_args={"parts": parts},  # Tornado adds the path to it
            cross_origin_protection=True,
            trusted_origins=[parts.public_url] if parts.public_url else [],
            https=parts.https,
            papers=papers,
            texts=texts,
            log_function=self.counts.answered,
        )

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        ordinary = super().start_request(server_conn, request_conn)
        return Entrance(self.lane, request_conn, ordinary)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """What holds for every address is looked at before the address is."""
        anybody = {"parts": self.parts}
        if not self.parts.answers_at(request.host_name):
            return self.get_handler_delegate(request, WrongHost, anybody)
        if _announced(request) > LARGEST_BODY_BYTES:
            return self.get_handler_delegate(request, TooLarge, anybody)
        return super().find_handler(request, **kwargs)


def _announced(request: HTTPServerRequest) -> int:
    """The length of the body that the request announces; Tornado has checked that it reads."""
    length = request.headers.get("Content-Length", "0")
    return int(length) if length.isascii() and length.isdigit() else 0
