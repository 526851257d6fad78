"""At the desk: the form of one's service, the job it becomes, and the result.

Nothing typed here is kept but in the job: plain fields as they are, secrets sealed for the
worker before they leave this process. They are in no address, no log line and no page.

Kept out: what a service asks for and how it is checked (an adapter), who may be here (the
line), and how the job is carried out (a worker).
"""

from collections.abc import Mapping

from downstream.adapter import ActionSpec, check, clean
from downstream.sealed import purpose
from handlers.problems import problem_of, sentence_of
from handlers.visit import Visit, job_key
from handlers.waiting import QueuePages, TicketApi
from handlers.wire import nothing_changed
from queue_backend.errors import (
    BadInput,
    BadTicket,
    LineClosed,
    LineFull,
    NotFound,
    Unavailable,
    WrongState,
)
from queue_backend.people.line import WaitingLine
from queue_backend.people.standing import Standing
from queue_backend.people.ticket import State, Ticket


class FormRefused(BadInput):
    """Fields of the form do not read; `errors` has a code and a sentence for each."""

    def __init__(self, codes: Mapping[str, str]) -> None:
        field, code = next(iter(codes.items()))
        super().__init__(code, field)
        self.errors = {field: (code, sentence_of(code)) for field, code in codes.items()}


class AtTheDesk(Visit):
    async def submit(
        self, line: WaitingLine, ticket: Ticket, fields: Mapping[str, object]
    ) -> Standing:
        """What was typed becomes a job, and the place is free again."""
        count, job = await self.newest_job(line, ticket)
        try:
            await line.turn(ticket)
        except WrongState as refused:
            if refused.state != State.DONE or job is None:
                raise
            return await line.stand(ticket)  # sent twice: it is the same job
        # After a rejected job the person is back with the same ticket, and this is another one.
        if job is None or nothing_changed(job):
            count += 1
        spec = self.spec(line, ticket)
        if errors := check(spec, fields):
            raise FormRefused(errors)
        plain, secret = spec.divide(clean(spec, fields))
        key = job_key(ticket, count)
        args: dict[str, object] = {"fields": plain}
        if secret:
            args["sealed"] = self.parts.keyring.seal(secret, purpose(key, spec.name))
        # We put the job in line before we mark the ticket served. If this process dies between
        # the two, the person is still at the desk, and sending the form again finds the job
        # under its key. The other way round, somebody would be served and nothing done.
        try:
            await self.jobs(line).put(spec.name, args, key=key, once=True)
        except LineFull as full:
            # It is the work that has no room, not the people: who is at the desk stays there.
            raise Unavailable("store-busy", str(full), full.retry_after_seconds) from full
        return await line.finish(ticket)

    async def try_again(self, line: WaitingLine, ticket: Ticket) -> Standing:
        """Back to the form without queueing again; only after a job that changed nothing."""
        _, job = await self.newest_job(line, ticket)
        if job is None or not nothing_changed(job):
            raise WrongState("not-retryable", job.state.value if job else "")
        return await line.retry(ticket)

    def spec(self, line: WaitingLine, ticket: Ticket) -> ActionSpec:
        try:
            return self.adapter(line).actions[ticket.service]
        except KeyError:
            raise NotFound("service-unknown") from None


class DeskPage(AtTheDesk, QueuePages):
    """/lines/{line}/desk: the form, then the job's progress, then the result."""

    async def get(self, name: str) -> None:
        line = self.line(name)
        try:
            ticket = self.ticket_held(line)
        except BadTicket:
            return self.see(f"/lines/{line.name}")
        standing = await line.stand(ticket)
        if standing.state is State.SERVING:
            await self._show_form(line, standing)
        elif (body := await self.body(line, standing))["job"]:
            self.keep(line, standing)
            spec = self.adapter(line).actions.get(ticket.service)
            self.show("job.html", line, body=body, spec=spec)
        else:
            self.see(f"/lines/{line.name}")

    async def post(self, name: str) -> None:
        line = self.line(name)
        fields = self.form_body()
        try:
            ticket = self.ticket_held(line)
        except BadTicket as refused:
            return await self.show_queue(line, None, refused, lost=True)
        try:
            standing = await self.submit(line, ticket, fields)
        except FormRefused as refused:
            return await self._show_form(line, await line.stand(ticket), fields, refused)
        except WrongState as refused:
            return await self.show_queue(line, await line.stand(ticket), refused)
        self.keep(line, standing)
        self.see(f"/lines/{line.name}/desk")

    async def _show_form(
        self,
        line: WaitingLine,
        standing: Standing,
        typed: Mapping[str, str] | None = None,
        refused: FormRefused | None = None,
    ) -> None:
        spec = self.spec(line, standing.ticket)
        if refused is not None:
            self.put_status(problem_of(refused))
        errors = refused.errors if refused else {}
        # Everything typed comes back but the secrets.
        plain = {field.name for field in spec.fields if not field.is_secret}
        self.keep(line, standing)
        self.show(
            "desk.html",
            line,
            body=await self.body(line, standing),
            spec=spec,
            values={name: text for name, text in (typed or {}).items() if name in plain},
            errors={field: self.translated(sentence) for field, (_, sentence) in errors.items()},
            action=f"/lines/{line.name}/desk",
        )


class DeskVerbPage(AtTheDesk, QueuePages):
    """POST /lines/{line}/desk/extend and /lines/{line}/desk/retry"""

    async def post(self, name: str, verb: str) -> None:
        line = self.line(name)
        ticket = self.ticket_held(line)
        try:
            act = self.try_again if verb == "retry" else WaitingLine.extend
            standing = await act(line, ticket)
        except (WrongState, LineClosed) as refused:
            return await self.show_queue(line, await line.stand(ticket), refused)
        self.keep(line, standing)
        self.see(f"/lines/{line.name}/desk")


class JobApi(AtTheDesk, TicketApi):
    """POST /api/lines/{line}/ticket/job"""

    async def post(self, name: str) -> None:
        line = self.line(name)
        sent = self.json_body()
        ticket = self.ticket_held(line)
        action, fields = sent.get("action", ticket.service), sent.get("fields", {})
        if not isinstance(action, str):
            raise BadInput("action-type", "action")
        if action not in self.adapter(line).actions:
            raise NotFound("action-unknown")
        if action != ticket.service:
            raise BadInput("action-other", "action")
        if not isinstance(fields, dict):
            raise BadInput("fields-type", "fields")
        await self.answer_visit(line, await self.submit(line, ticket, fields), 202)


class RetryApi(AtTheDesk, TicketApi):
    """POST /api/lines/{line}/ticket/retry"""

    async def post(self, name: str) -> None:
        line = self.line(name)
        self.json_body()
        await self.answer_visit(line, await self.try_again(line, self.ticket_held(line)))
