"""One person's visit, as pages and API both ask about it: ticket, standing and job together.

The verbs of a visitor are verbs of the line; this table only says under which address each is.

Kept out: how it is answered (`waiting.py`, `desk.py`), and every decision.
"""

from collections.abc import Awaitable, Callable, Mapping

from handlers.base import Handler
from handlers.wire import JsonObject, PollText, job_part, poll_body, to_json
from queue_backend.errors import BadTicket, NotFound
from queue_backend.people.line import WaitingLine
from queue_backend.people.standing import Standing
from queue_backend.people.ticket import State, Ticket
from queue_backend.work.job import Job

Verb = Callable[[WaitingLine, Ticket], Awaitable[Standing]]

VERBS: Mapping[str, Verb] = {
    "confirm": WaitingLine.confirm,
    "extend": WaitingLine.extend,
    "leave": WaitingLine.leave,
    "undo": WaitingLine.undo,
    "return": WaitingLine.come_back,
    "yield": WaitingLine.give_way,
    "acknowledge": WaitingLine.acknowledge,
}


class Visit(Handler):
    async def body(self, line: WaitingLine, standing: Standing | None) -> JsonObject:
        """The poll body; a finished visit brings the job that was left at the desk."""
        job = None
        if standing is not None and standing.state is State.DONE:
            job = await self.job_told(line, standing.ticket)
        return poll_body(
            standing,
            line.public(),
            self.desk(line),
            self.language,
            self.parts.clock.wall(),
            self.parts.build,
            job,
        )

    async def body_text(self, line: WaitingLine, standing: Standing | None) -> str:
        """The same as JSON; put together from shared parts for those who stand in line."""
        if standing is None or standing.state.ended:
            return to_json(await self.body(line, standing))
        texts: PollText = self.settings["texts"][line.name]
        return texts.of(standing, line.public(), self.language, self.parts.clock.wall())

    async def take(
        self, line: WaitingLine, name: object, service: object, request_id: object
    ) -> tuple[Standing, bool]:
        """A number, and whether it is new: a browser that holds a living one keeps that."""
        held = await self.standing_held(line)
        if held is not None and not held.state.ended:
            return held, False
        ticket = await line.take(name, service, request_id)
        return await line.stand(ticket), True

    async def standing_held(self, line: WaitingLine) -> Standing | None:
        """Where the ticket of this browser stands; None without one that reads."""
        try:
            ticket = self.ticket(line)
        except BadTicket:
            # Whoever holds a paper that is not ours may still take a number.
            return None
        return None if ticket is None else await line.stand(ticket)

    def keep(self, line: WaitingLine, standing: Standing | None) -> None:
        """Lets the browser keep its paper as it is now, if it was stamped anew."""
        if standing is not None and standing.stamped:
            self.hand_back(line, standing.ticket)

    def verb(self, name: str) -> Verb:
        try:
            return VERBS[name]
        except KeyError:
            raise NotFound("action-unknown") from None

    # What was left at the desk

    async def newest_job(self, line: WaitingLine, ticket: Ticket) -> tuple[int, Job | None]:
        """The last job of this ticket and its count; (0, None) before the first."""
        jobs = self.jobs(line)
        count, newest = 0, None
        while (found := await jobs.find(job_key(ticket, count + 1))) is not None:
            count, newest = count + 1, found
        return count, newest

    async def has_job(self, line: WaitingLine, standing: Standing) -> bool:
        if standing.state is not State.DONE:
            return False
        return await self.jobs(line).find(job_key(standing.ticket, 1)) is not None

    async def job_told(self, line: WaitingLine, ticket: Ticket) -> JsonObject | None:
        _, job = await self.newest_job(line, ticket)
        if job is None:
            return None
        jobs = self.jobs(line)
        return job_part(
            job,
            ahead=max(0, await jobs.position(job.id) - 1),
            recent_seconds=(await jobs.stats()).recent_seconds,
            adapter=self.adapter(line),
            now=self.parts.clock.wall(),
            translate=self.translated,
        )


def job_key(ticket: Ticket, count: int) -> str:
    """One key for each thing the ticket leaves at the desk: the same submission, however often
    it is sent, is one job."""
    return f"{ticket.line}:{ticket.id}:{count}"
