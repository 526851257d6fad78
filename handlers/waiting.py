"""The queue page and the ticket's API: take a number, see one's place, answer the call.

Kept out: the form and what becomes of it (`desk.py`); who is called when (`people/`).
"""

import secrets
from collections.abc import Mapping

from handlers.base import Api, Page
from handlers.problems import problem_of
from handlers.visit import Visit
from handlers.wire import with_token
from queue_backend.errors import (
    BadInput,
    BadTicket,
    LineClosed,
    LineFull,
    NotFound,
    Refused,
    WrongState,
)
from queue_backend.people.line import WaitingLine
from queue_backend.people.standing import Standing
from queue_backend.people.ticket import State


class QueuePages(Visit, Page):
    async def show_queue(
        self,
        line: WaitingLine,
        standing: Standing | None,
        refused: Refused | None = None,
        form: Mapping[str, str] | None = None,
        **context: object,
    ) -> None:
        """The queue page as it is for this person now, under the sentence of `refused`."""
        form = form or {}
        errors = {}
        if refused is not None:
            problem = problem_of(refused)
            self.put_status(problem)
            sentence = self.said(problem)
            if problem.field:
                errors = {problem.field: sentence}
            context["error"] = sentence
        self.keep(line, standing)
        adapter = self.adapter(line)
        self.show(
            "queue.html",
            line,
            **{
                "body": await self.body(line, standing),
                "spec": standing and adapter.actions.get(standing.ticket.service),
                "specs": list(adapter.actions.values()),
                "form": {
                    "name": form.get("name", standing.ticket.name if standing else ""),
                    "service": form.get("service", standing.ticket.service if standing else ""),
                    "errors": errors,
                },
                # A new press is a new request; the same press sent twice is the same one.
                "request_id": form.get("request_id") or secrets.token_urlsafe(12),
                "rules": line.rules,
                "error": None,
                "cookies_off": False,
                "lost": False,
                **context,
            },
        )


class QueuePage(QueuePages):
    """GET /lines/{line}"""

    async def get(self, name: str) -> None:
        line = self.line(name)
        try:
            ticket = self.ticket(line)
        except BadTicket as refused:
            return await self.show_queue(line, None, refused, lost=True)
        if ticket is None:
            # Whoever just took a number and comes without one has a browser that keeps no cookie.
            taken = "taken" in self.request.query_arguments
            return await self.show_queue(line, None, cookies_off=taken)
        standing = await line.stand(ticket)
        again = "again" in self.request.query_arguments
        if standing.state.ended and again:
            return await self.show_queue(line, None, form={"name": ticket.name})
        if standing.state is State.SERVING or await self.has_job(line, standing):
            return self.see(f"/lines/{line.name}/desk")
        await self.show_queue(line, standing)


class TakePage(QueuePages):
    """POST /lines/{line}/take"""

    async def post(self, name: str) -> None:
        line = self.line(name)
        form = self.form_body()
        try:
            standing, _ = await self.take(
                line, form.get("name", ""), form.get("service", ""), form.get("request_id", "")
            )
        except (BadInput, NotFound, LineClosed, LineFull) as refused:
            return await self.show_queue(line, None, refused, form)
        self.hand_back(line, standing.ticket)
        self.see(f"/lines/{line.name}?taken=1")


class VerbPage(QueuePages):
    """POST /lines/{line}/confirm, extend, leave, undo, return, yield, acknowledge"""

    async def post(self, name: str, verb: str) -> None:
        line = self.line(name)
        act = self.verb(verb)
        try:
            ticket = self.ticket_held(line)
        except BadTicket as refused:
            return await self.show_queue(line, None, refused, lost=True)
        try:
            standing = await act(line, ticket)
        except (WrongState, LineClosed) as refused:
            # Pressed on a page that time had overtaken: show what is so now, and say it.
            return await self.show_queue(line, await line.stand(ticket), refused)
        self.keep(line, standing)
        self.see(f"/lines/{line.name}")


class TicketApi(Visit, Api):
    async def answer_visit(
        self, line: WaitingLine, standing: Standing | None, status: int = 200
    ) -> None:
        token = ""
        if standing is not None and standing.stamped:
            token = self.hand_back(line, standing.ticket)
        text = await self.body_text(line, standing)
        by_header = token and self.came_by_header(line)
        self.answer_text(with_token(text, token) if by_header else text, status)


class PollApi(TicketApi):
    """GET /api/lines/{line}/ticket: the hot path. No store is asked for a ticket that waits."""

    async def get(self, name: str) -> None:
        line = self.line(name)
        ticket = self.ticket(line)
        await self.answer_visit(line, None if ticket is None else await line.stand(ticket))


class TakeApi(TicketApi):
    """POST /api/lines/{line}/tickets"""

    async def post(self, name: str) -> None:
        line = self.line(name)
        sent = self.json_body()
        standing, new = await self.take(
            line, sent.get("name", ""), sent.get("service", ""), sent.get("request_id", "")
        )
        token = self.hand_back(line, standing.ticket)
        text = await self.body_text(line, standing)
        self.answer_text(with_token(text, token), 201 if new else 200)


class VerbApi(TicketApi):
    """POST /api/lines/{line}/ticket/{verb}"""

    async def post(self, name: str, verb: str) -> None:
        line = self.line(name)
        act = self.verb(verb)
        self.json_body()  # nothing is asked for, but what is sent must read
        await self.answer_visit(line, await act(line, self.ticket_held(line)))
