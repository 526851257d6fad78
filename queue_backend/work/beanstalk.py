"""A job line in beanstalkd, for a site that runs one already: an extra, by the package greenstalk.

It has the verbs of `line.py` that beanstalkd can keep: put, reserve, claim, touch, ack, release,
bury, kick, peek, stats, pause. What it cannot promise is refused when the line is opened
(`CANNOT` says what and why), never later. As many jobs run at once as slots are started.

beanstalkd gives a job to a connection, not to a holder, and that decides the shape of this:

- A slot that waits for a job or has one in hand has a connection of its own, and a thread that
  alone speaks on it. All that is said of the job goes that way; no event loop ever waits.
- Who dies gives the job back at once, because the connection ends. Who only falls silent is
  cut off here, by the thread, when lease and grace are over.
- beanstalkd's own timer, the job's time to run, covers the rest: a process or host that is
  frozen. It may miss its moment; the job then stays reserved with its time long over, until its
  connection says any word or ends. A heartbeat is such a word. `stuck` finds these jobs.

The counters that beanstalkd keeps for a job stand for our columns: `attempt` is how often it was
reserved, `fails` is counted from reserves, kicks and buries. A server that is started again has
forgotten what it counted since it last wrote the job down, so `attempt` is no fence to rely on.
Why a job was buried, and what it answered, are not kept at all: the log tells.

Kept out: what a job does, and who does it.
"""

import asyncio
import contextlib
import json
import logging
import math
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from queue_backend.answer import Answer
from queue_backend.clock import Clock, SystemClock
from queue_backend.errors import (
    BadInput,
    LeaseLost,
    LineFull,
    NotFound,
    NowServingError,
    Unavailable,
    Unsupported,
    WrongState,
)
from queue_backend.work.job import NO_CAP, ORDINARY_PRI, Job, JobState, JobStats, Lease, Put

try:
    import greenstalk
except ImportError:  # an extra; nothing else needs it
    greenstalk = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEME = "beanstalk://"
ORDINARY_PORT = 11_300
HIGHEST_NUMBER = 2**32 - 1
# A server that says nothing for so long is taken for gone, and its connection is given up.
SILENCE_SECONDS = 5.0
# A server whose host is gone is noticed after this, by one who does nothing but wait for a job.
LONGEST_WAIT_SECONDS = 60
# A tube's name may be longer and hold more; a line is named alike on every engine.
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,199}")

Need = Literal[
    "cap",
    "depth",
    "durable",
    "join",
    "keep_seconds",
    "key",
    "lifo",
    "once",
    "position",
    "then",
    "ttl",
    "turn",
    "update",
]

# What is asked of other engines and cannot be had from this one, each in a sentence.
CANNOT: Mapping[Need, str] = {
    "cap": "counts no running jobs: as many run at once as slots are started, on all hosts",
    "depth": "knows no end of a line but that of its memory",
    "durable": "forgets every job when it ends, unless it is started with -b DIRECTORY; to use it"
    " nevertheless, say ?durable=no behind its address",
    "join": "does not tell when a line has become empty",
    "keep_seconds": "keeps no job that is done",
    "key": "keeps no keys: the same job put twice runs twice",
    "lifo": "gives the oldest job first",
    "once": "keeps no keys: the same job put twice runs twice",
    "position": "does not tell where in the line a job is",
    "then": "cannot end a job and put the next stage in one step: dying in between would lose it",
    "ttl": "lets no waiting job expire",
    "turn": "has no fence, so it cannot be a lock",
    "update": "cannot change a job that was put",
}
_DO_INSTEAD = "A database can: sqlite:///FILE, or the address of a MariaDB or PostgreSQL"


def refuse(*needs: Need) -> None:
    """Raises Unsupported, with a sentence for each, if anything at all is needed of these."""
    if needs:
        sentences = "; ".join(dict.fromkeys(CANNOT[need] for need in needs))
        raise Unsupported(f"beanstalkd {sentences}. {_DO_INSTEAD}")


def is_beanstalk(url: str) -> bool:
    return url.startswith(SCHEME)


def open_line(
    url: str,
    name: str,
    *,
    needs: Iterable[Need] = (),
    cap: int | None = None,
    depth: int | None = None,
    keep_seconds: float | None = None,
    order: Literal["fifo", "lifo"] = "fifo",
    lease_seconds: float = 30,
    grace_seconds: float = 5,
    tries: int = 4,
    backoff_seconds: float = 600,
) -> "BeanstalkLine":
    """The line `name` of the beanstalkd at `beanstalk://HOST:PORT`, which answers and keeps what
    it is given. Say by `needs` what the program is going to ask of the line; the rules are those
    of JobLine, so that what cannot be had is refused and not passed over.

    Raises Unsupported in words when it cannot be had, Unavailable when the server is away.
    """
    rules: dict[Need, bool] = {
        "cap": cap is not None,
        "depth": depth is not None,
        "keep_seconds": keep_seconds is not None,
        "lifo": order == "lifo",
    }
    refuse(*needs, *(need for need, is_asked in rules.items() if is_asked))
    line = BeanstalkLine(
        url,
        name,
        lease_seconds=lease_seconds,
        grace_seconds=grace_seconds,
        tries=tries,
        backoff_seconds=backoff_seconds,
    )
    try:
        line.check().result()
    except BaseException:
        line.close()
        raise
    return line


class BeanstalkLine:
    """One tube of a beanstalkd, in the words of a job line. Close it when done.

    `lease_seconds` and `grace_seconds` are written into each job that is put here, as its time
    to run: whoever reserves it cannot make them longer.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        lease_seconds: float = 30,
        grace_seconds: float = 5,
        tries: int = 4,
        backoff_seconds: float = 600,
        clock: Clock | None = None,
    ) -> None:
        if greenstalk is None:
            raise Unsupported("beanstalkd is spoken to by the package greenstalk: install it")
        if not _NAME.fullmatch(name):
            raise Unsupported(f"beanstalkd has no line with the name {name!r}")
        self.name = name
        self.lease_seconds = lease_seconds
        self._server = _server(url)
        self._grace_seconds = grace_seconds
        self._tries = tries
        self._backoff_seconds = backoff_seconds
        self._clock = clock or SystemClock()
        self._paused_reason = "paused"
        self._newest_id = 0
        self._opening = Lock()
        self._closed = False
        self._wires: list[_Wire] = []
        self._idle: deque[_Wire] = deque()
        self._desk = self._new_wire()

    def check(self) -> Answer[None]:
        """The server answers, and keeps what it is given through its own end."""

        def look(client: "greenstalk.Client[bytes]") -> None:
            # Its log is numbered from 1 on; without one the number is 0.
            if self._server.durable and client.stats()["binlog-current-index"] < 1:
                refuse("durable")

        return self._desk.ask(look)

    def close(self) -> None:
        """End all connections. What is in somebody's hand goes back to the line at once."""
        with self._opening:
            self._closed = True
            wires = tuple(self._wires)
        for wire in wires:
            wire.close()

    # Putting and looking

    def put(
        self,
        task: str,
        args: Mapping[str, object] | None = None,
        *,
        body: bytes | None = None,
        key: str | None = None,
        pri: int = ORDINARY_PRI,
        delay_seconds: float = 0,
        ttl_seconds: float | None = None,
        tries: int | None = None,
        once: bool = False,
    ) -> Answer[Job]:
        """Put a job in line; it is in the server's log when this is answered, and on its disk at
        once if the server was started with -f0.

        Smaller `pri` goes first, then the older; a delay is in whole seconds, rounded up. Raises
        LineFull when the server has no room or takes no more jobs, BadInput when this one is
        larger than it allows. A job whose put ended in Unavailable may be there or not.
        """
        asked: dict[Need, bool] = {"key": key is not None, "ttl": ttl_seconds is not None}
        refuse(*(need for need, is_asked in {**asked, "once": once}.items() if is_asked))
        if not 0 <= pri <= HIGHEST_NUMBER:
            raise BadInput("out-of-range", "pri")
        delay = _whole(delay_seconds)
        new = Put(task, args or {}, body, pri=pri, tries=tries)
        data = _wrapped(new)

        def say(client: "greenstalk.Client[bytes]") -> Job:
            try:
                id = client.put(data, priority=pri, delay=delay, ttr=self._time_to_run)
            except greenstalk.BuriedError as error:
                # Taken, but there was no memory to line it up. So that it is not kicked later:
                if error.id is not None:
                    client.delete(error.id)
                raise LineFull() from error
            self._newest_id = max(self._newest_id, id)
            now = self._clock.wall()
            state = JobState.DELAYED if delay else JobState.READY
            return _job(self.name, id, new, state)._replace(
                pri=pri, put_at=now, due=now + delay, created=True
            )

        return self._desk.ask(say)

    def peek(self, id: int) -> Answer[Job]:
        """The job as it is now. Raises NotFound, also for a job that is done: none are kept."""
        return self._desk.ask(lambda client: self._looked_up(client, id))

    def stats(self) -> Answer[JobStats]:
        """How busy the line is. There is no cap to tell, and nobody keeps how long jobs ran."""

        def look(client: "greenstalk.Client[bytes]") -> JobStats:
            try:
                tube = client.stats_tube(self.name)
            except greenstalk.NotFoundError:  # where nobody puts and nobody waits is no tube
                return JobStats(0, 0, 0, 0, NO_CAP, None, ())
            return JobStats(
                ready=tube["current-jobs-ready"],
                reserved=tube["current-jobs-reserved"],
                delayed=tube["current-jobs-delayed"],
                buried=tube["current-jobs-buried"],
                cap=NO_CAP,
                paused_reason=self._paused_reason if tube["pause-time-left"] else None,
                recent_seconds=(),
            )

        return self._desk.ask(look)

    def stuck(self, newest: int = 10_000) -> Answer[list[Job]]:
        """The jobs that beanstalkd has forgotten to take back: reserved, with their time over.

        Only their holder can free them, by a word or its end. beanstalkd lists no jobs, so they
        are looked for among the `newest` numbers, from the highest one known down; that takes
        some 50 µs each, and is over when all that are reserved were seen.
        """
        wire = self._rested_wire()

        def look(client: "greenstalk.Client[bytes]") -> list[Job]:
            try:
                unseen = client.stats_tube(self.name)["current-jobs-reserved"]
            except greenstalk.NotFoundError:
                return []
            highest = max(self._newest_id, client.stats()["total-jobs"])
            found = []
            for id in range(highest, max(0, highest - newest), -1):
                if not unseen:
                    break
                with contextlib.suppress(greenstalk.NotFoundError):
                    told = client.stats_job(id)
                    if told["tube"] == self.name and told["state"] == "reserved":
                        unseen -= 1
                        if told["time-left"] < 0:
                            found.append(self._as_told(told, client.peek(id).body))
            for job in found:
                late = self._clock.wall() - job.due
                log.error(
                    "job %d: reserved, and %.0f s past its time; beanstalkd takes it back only"
                    " when its holder ends or says a word",
                    job.id,
                    late,
                )
            return found

        answer = wire.ask(look)
        answer.add_done_callback(lambda _: self._idle.append(wire))
        return answer

    # Taking and giving back

    async def reserve(
        self, holder: str, wait_seconds: float = 0, *, lease_seconds: float | None = None
    ) -> Lease | None:
        """Take the next ready job; wait for one up to `wait_seconds`, rounded up to whole ones.

        beanstalkd hands a job over the moment it is ready, whoever put it. Cancelling this gives
        back at once what was just being handed over.
        """
        wire, answer = self._reserving(holder, wait_seconds, lease_seconds)
        try:
            return await answer
        except asyncio.CancelledError:
            nothing_came = answer.done() and (
                answer.cancelled() or answer.exception() is not None or answer.result() is None
            )
            if not nothing_came:
                wire.cut()
            raise

    def reserve_blocking(
        self, holder: str, wait_seconds: float = 0, *, lease_seconds: float | None = None
    ) -> Lease | None:
        """The same in a thread."""
        return self._reserving(holder, wait_seconds, lease_seconds)[1].result()

    def claim(self, holder: str, *, lease_seconds: float | None = None) -> Answer[Lease | None]:
        """One try to take the next ready job. One that has used up its tries is buried, and the
        next one is looked at.

        A lease longer than the job's time to run is cut to it; its `deadline` says so.
        """
        return self._reserving(holder, 0, lease_seconds)[1]

    def touch(
        self, lease: Lease, step: str | None = None, *, lease_seconds: float | None = None
    ) -> Answer[Lease]:
        """Renew the lease; this also wakes a timer of the server that got stuck. The `step` is
        known to this process only. Raises LeaseLost when the connection that has the job broke.
        """

        def say(client: "greenstalk.Client[bytes]", grip: _Grip) -> Lease:
            before = self._clock.monotonic()
            try:
                client.touch(grip.job)
            except OSError as error:
                grip.wire.let_go(hang_up=True)
                raise _lease_lost(lease.job.id) from error
            deadline = self._until(grip, before, lease_seconds)
            job = lease.job if step is None else lease.job._replace(step=step)
            now = self._clock.wall()
            return _Held(job._replace(due=now + grip.gone_at - before), deadline, grip)

        return self._in_hand(lease, say)

    def ack(
        self,
        lease: Lease,
        result: Mapping[str, object] | None = None,
        *,
        then: Sequence[Put] = (),
    ) -> Answer[Job]:
        """The job is done, and forgotten: its `result` is in the answer and nowhere else.

        Raises LeaseLost when it is in other hands. Should the connection break meanwhile, it is
        Unavailable: then the job may be done with, or run once more.
        """
        if then:
            refuse("then")

        def say(client: "greenstalk.Client[bytes]", grip: _Grip) -> Job:
            client.delete(grip.job)
            grip.wire.let_go()
            kept = None if result is None else dict(result)
            done_at = self._clock.wall()
            ended = lease.job._replace(state=JobState.DONE, result=kept, done_at=done_at)
            return ended._replace(holder=None, step="", error=None)

        return self._in_hand(lease, say)

    def release(
        self,
        lease: Lease,
        *,
        delay_seconds: float | None = None,
        error: str | None = None,
        nothing_sent: bool = False,
    ) -> Answer[Job]:
        """Give the job back, to its old place in the line.

        With an `error` it is a fail, waits for the back-off unless `delay_seconds` says
        otherwise, and is buried past its tries. Without, and without a delay, it is a polite
        release and not counted. The error goes to the log: beanstalkd keeps no texts.
        """
        polite = error is None and not delay_seconds
        delay = delay_seconds
        if delay is None:
            delay = 0 if error is None else self._backoff_seconds
        seconds = _whole(delay)

        def say(client: "greenstalk.Client[bytes]", grip: _Grip) -> Job:
            fails = lease.job.fails + (error is not None)
            back = lease.job._replace(holder=None, fails=fails, error=error, step="")
            if fails >= grip.tries:
                return self._bury(client, grip, back)
            try:
                # beanstalkd counts a reserve for a fail unless a kick takes it back, and kicks
                # only what is delayed or buried. Dying in between, it is ready in a second.
                client.release(grip.job, grip.pri, 1 if polite else seconds)
                if polite:
                    with contextlib.suppress(greenstalk.NotFoundError):
                        client.kick_job(grip.job)
            except greenstalk.BuriedError:
                log.error("job %d: beanstalkd has no memory to line it up; buried", grip.job.id)
                grip.wire.let_go()
                return back._replace(state=JobState.BURIED)
            grip.wire.let_go()
            if error is not None:
                log.info("job %d: fail %d of %d, %s", grip.job.id, fails, grip.tries, error)
            state = JobState.DELAYED if seconds else JobState.READY
            return back._replace(state=state, due=self._clock.wall() + seconds)

        return self._in_hand(lease, say)

    def bury(self, lease: Lease, error: str) -> Answer[Job]:
        """Put the job aside for an operator: it never runs again unless it is kicked. The error
        goes to the log: beanstalkd keeps no texts."""
        buried = lease.job._replace(holder=None, error=error)
        return self._in_hand(lease, lambda client, grip: self._bury(client, grip, buried))

    # What operators do

    def kick(self, id: int) -> Answer[Job]:
        """Make a buried or delayed job ready: a buried one with its tries before it, a delayed
        one with a fail less. Raises NotFound, WrongState."""

        def say(client: "greenstalk.Client[bytes]") -> Job:
            job = self._looked_up(client, id)
            if job.state not in (JobState.BURIED, JobState.DELAYED):
                raise WrongState("job-wrong-state", job.state)
            client.kick_job(id)
            return self._looked_up(client, id)

        return self._desk.ask(say)

    def kick_buried(self, count: int) -> Answer[list[Job]]:
        """Kick the oldest `count` buried jobs, and no delayed ones."""

        def say(client: "greenstalk.Client[bytes]") -> list[Job]:
            kicked: list[Job] = []
            # One by one: beanstalkd's own kick of several turns to the delayed ones when no
            # buried one is left. One that another operator was quicker with is left to him.
            with contextlib.suppress(greenstalk.NotFoundError):
                while len(kicked) < count:
                    id = client.peek_buried().id
                    with contextlib.suppress(greenstalk.NotFoundError):
                        client.kick_job(id)
                        kicked.append(self._looked_up(client, id))
            return kicked

        return self._desk.ask(say)

    def pause(self, seconds: float | None = None, reason: str = "paused") -> Answer[None]:
        """Let nobody reserve, in any process, for `seconds` or until `resume`. Running jobs run
        on. Only this process knows the reason; a server that is started again forgets it all."""
        until = HIGHEST_NUMBER if seconds is None else _whole(seconds)
        self._paused_reason = reason
        log.warning("%s: paused, %s", self.name, reason)
        return self._desk.ask(lambda client: client.pause_tube(self.name, until))

    def resume(self) -> Answer[None]:
        """Let jobs be reserved again. Resuming a line that is not paused changes nothing."""

        def say(client: "greenstalk.Client[bytes]") -> None:
            with contextlib.suppress(greenstalk.NotFoundError):
                client.pause_tube(self.name, 0)

        return self._desk.ask(say)

    # How it is done

    @property
    def _time_to_run(self) -> int:
        return _whole(self.lease_seconds + self._grace_seconds)

    def _new_wire(self) -> "_Wire":
        with self._opening:
            if self._closed:
                raise Unavailable(sentence=f"the line {self.name} is closed")
            wire = _Wire(self._server, self.name, self._clock, self._idle.append)
            self._wires.append(wire)
        return wire

    def _rested_wire(self) -> "_Wire":
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_wire()

    def _reserving(
        self, holder: str, wait_seconds: float, lease_seconds: float | None
    ) -> "tuple[_Wire, Answer[Lease | None]]":
        wire = self._rested_wire()
        give_up_at = self._clock.monotonic() + wait_seconds

        def say(client: "greenstalk.Client[bytes]") -> Lease | None:
            while True:
                left = _whole(give_up_at - self._clock.monotonic())
                wait = min(left, LONGEST_WAIT_SECONDS)
                wire.expect_answer_within(wait + SILENCE_SECONDS)
                try:
                    job = client.reserve(wait)
                except (greenstalk.TimedOutError, greenstalk.DeadlineSoonError):
                    if wait == left:
                        return None
                    continue
                wire.expect_answer_within(SILENCE_SECONDS)
                # Not found: its time was over before we could ask about it.
                with contextlib.suppress(greenstalk.NotFoundError):
                    lease = self._taken(wire, client, job, holder, lease_seconds)
                    if lease is not None:
                        return lease

        answer = wire.ask(say)
        # With a job in hand it is put there when that is over.
        answer.add_done_callback(lambda _: self._idle.append(wire) if not wire.grip else None)
        return wire, answer

    def _taken(
        self,
        wire: "_Wire",
        client: "greenstalk.Client[bytes]",
        job: "greenstalk.Job[bytes]",
        holder: str,
        lease_seconds: float | None,
    ) -> Lease | None:
        """A lease on what was just reserved; None when it has used up its tries, and was buried."""
        # How long ago it was reserved nobody tells. A touch begins its time anew, and not before
        # this moment, however late the answers come.
        before = self._clock.monotonic()
        client.touch(job)
        told = client.stats_job(job.id)
        self._newest_id = max(self._newest_id, job.id)
        now = self._clock.wall()
        shown = self._as_told(told, job.body)._replace(holder=holder, taken_at=now)
        tries = self._tries if shown.tries is None else shown.tries
        grip = _Grip(wire, job, told["pri"], tries, told["ttr"])
        if shown.fails >= tries:
            self._bury(client, grip, shown._replace(error="lease-lapsed"))
            return None
        wire.grip = grip
        deadline = self._until(grip, before, lease_seconds)
        return _Held(shown._replace(due=now + grip.gone_at - before), deadline, grip)

    def _until(self, grip: "_Grip", before: float, lease_seconds: float | None) -> float:
        lasts_seconds = lease_seconds or self.lease_seconds
        grip.gone_at = before + min(lasts_seconds + self._grace_seconds, grip.time_to_run)
        return min(before + lasts_seconds, grip.gone_at)

    def _in_hand(
        self, lease: Lease, say: Callable[["greenstalk.Client[bytes]", "_Grip"], T]
    ) -> Answer[T]:
        """Say something about the job on the one connection that has it."""
        grip = lease.grip if isinstance(lease, _Held) else None

        if grip is None or grip.wire.grip is not grip:
            # Not asked on the wire: another reserve may be waiting on it by now.
            lost: Answer[T] = Answer()
            lost.set_exception(_lease_lost(lease.job.id))
            return lost

        def say_it(client: "greenstalk.Client[bytes]") -> T:
            try:
                return say(client, grip)
            except greenstalk.NotFoundError as error:
                # Its time was over there sooner than here.
                grip.wire.let_go()
                raise _lease_lost(lease.job.id) from error

        return grip.wire.ask(say_it, grip)

    def _bury(self, client: "greenstalk.Client[bytes]", grip: "_Grip", job: Job) -> Job:
        client.bury(grip.job, grip.pri)
        grip.wire.let_go()
        log.error("job %d: buried, %s; a kick makes it ready again", job.id, job.error)
        return job._replace(state=JobState.BURIED, holder=None)

    def _looked_up(self, client: "greenstalk.Client[bytes]", id: int) -> Job:
        try:
            body = client.peek(id).body
            told = client.stats_job(id)
        except greenstalk.NotFoundError as error:
            raise NotFound("job-unknown", f"{self.name}: no job {id}") from error
        if told["tube"] != self.name:
            raise NotFound("job-unknown", f"{self.name}: no job {id}")
        return self._as_told(told, body)

    def _as_told(self, told: "greenstalk.StatsJob", body: bytes) -> Job:
        put = _unwrapped(body)
        state = JobState(told["state"])
        now = self._clock.wall()
        is_timed = state in (JobState.DELAYED, JobState.RESERVED)
        return _job(self.name, told["id"], put, state)._replace(
            pri=told["pri"],
            due=now + told["time-left"] if is_timed else now - told["age"],
            attempt=told["reserves"],
            fails=_fails(told, self._tries if put.tries is None else put.tries),
            put_at=now - told["age"],
        )


class _Server(NamedTuple):
    host: str
    port: int
    durable: bool


def _server(url: str) -> _Server:
    how = f"beanstalkd is named as {SCHEME}HOST:PORT"
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        port = parts.port or ORDINARY_PORT
    except ValueError as error:
        raise Unsupported(how) from error
    if not is_beanstalk(url) or not parts.hostname or parts.path.strip("/") or parts.username:
        raise Unsupported(how)
    durable = options.pop("durable", "yes")
    if options or durable not in ("yes", "no"):
        raise Unsupported(f"{how}, and behind it may stand ?durable=no")
    return _Server(parts.hostname, port, durable == "yes")


class _Wire:
    """One connection to beanstalkd, and the thread that alone speaks on it.

    It has at most one job in hand. When lease and grace of that are over the thread hangs up,
    and so beanstalkd has the job back. `rests` is told when a job has left the hand.
    """

    def __init__(
        self, server: _Server, tube: str, clock: Clock, rests: "Callable[[_Wire], object]"
    ) -> None:
        self.grip: _Grip | None = None
        self._server = server
        self._tube = tube
        self._clock = clock
        self._rests = rests
        self._asked: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._changing = Lock()
        self._closed = False
        self._socket: socket.socket | None = None
        self._client: greenstalk.Client[bytes] | None = None
        self._thread = Thread(target=self._listen, name=f"beanstalkd-{tube}", daemon=True)
        self._thread.start()

    def ask(
        self, say: "Callable[[greenstalk.Client[bytes]], T]", grip: "_Grip | None" = None
    ) -> Answer[T]:
        """Say it after all that was asked before. About a job in hand it is said on the very
        connection that has it, or not at all: with another the server may take it for anybody."""
        answer: Answer[T] = Answer()

        def turn() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                said = self._spoken(say, grip)
            except Exception as error:
                answer.set_exception(error)
            else:
                answer.set_result(said)

        with self._changing:
            if self._closed:
                answer.set_exception(self._unavailable("the line is closed"))
            else:
                self._asked.put(turn)
        return answer

    def expect_answer_within(self, seconds: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(seconds)

    def let_go(self, hang_up: bool = False) -> None:
        """The job has left the hand. By hanging up it is given back, if it was still there."""
        if hang_up:
            self._hang_up()
        if self.grip is not None:
            self.grip = None
            self._rests(self)

    def cut(self) -> None:
        """From any thread: end the connection, whatever is being waited for on it."""
        self._shut()
        self._asked.put(lambda: self.let_go(hang_up=True))

    def close(self) -> None:
        """End the connection and the thread. What was asked and not yet said is refused."""
        with self._changing:
            self._closed = True
            self._asked.put(None)
        self._shut()
        self._thread.join()

    def _listen(self) -> None:
        while True:
            try:
                turn = self._asked.get(timeout=self._seconds_left())
            except Empty:
                assert self.grip is not None
                log.warning("job %d: its lease is over; the line has it back", self.grip.job.id)
                self.let_go(hang_up=True)
                continue
            if turn is None:
                break
            turn()
        self.let_go(hang_up=True)

    def _seconds_left(self) -> float | None:
        if self.grip is None:
            return None
        return max(0.0, self.grip.gone_at - self._clock.monotonic())

    def _spoken(self, say: "Callable[[greenstalk.Client[bytes]], T]", grip: "_Grip | None") -> T:
        try:
            self._look_up()
            if grip is not None and self.grip is not grip:
                raise _lease_lost(grip.job.id)
            return say(self._connected())
        except NowServingError:
            raise
        except greenstalk.NotFoundError as error:
            raise NotFound("job-unknown", f"{self._tube}: there is no such job now") from error
        except (greenstalk.DrainingError, greenstalk.OutOfMemoryError) as error:
            raise LineFull() from error
        except greenstalk.JobTooBigError as error:
            raise BadInput("too-long", "args", "larger than beanstalkd's -z allows") from error
        except (OSError, greenstalk.Error, AssertionError, ValueError) as error:
            # The last two are how greenstalk takes an answer that was broken off.
            self.let_go(hang_up=True)
            raise self._unavailable(str(error) or type(error).__name__) from error
        except BaseException:
            # Whatever was under way, no job may stay in this hand with nobody knowing.
            self.let_go(hang_up=True)
            raise

    def _look_up(self) -> None:
        """What happened since the last word: the lease may be over, the connection ended. In
        either case the server has the job back."""
        is_over = self.grip is not None and self._seconds_left() == 0
        if is_over or (self._socket is not None and _has_ended(self._socket)):
            self.let_go(hang_up=True)

    def _connected(self) -> "greenstalk.Client[bytes]":
        if self._closed:
            raise ConnectionError("the line is closed")
        if self._client is None:
            address = (self._server.host, self._server.port)
            connection = socket.create_connection(address, timeout=SILENCE_SECONDS)
            with self._changing:
                self._socket = connection
                if self._closed:
                    raise ConnectionError("the line is closed")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._client = client = greenstalk.Client(connection, encoding=None)
            if self._tube != greenstalk.DEFAULT_TUBE:
                client.use(self._tube)
                client.watch(self._tube)
                client.ignore(greenstalk.DEFAULT_TUBE)
        self.expect_answer_within(SILENCE_SECONDS)
        return self._client

    def _shut(self) -> None:
        with self._changing, contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        with self._changing:
            client, self._client = self._client, None
            connection, self._socket = self._socket, None
        if client is not None:
            client.close()
        if connection is not None:
            connection.close()

    def _unavailable(self, sentence: str) -> Unavailable:
        return Unavailable(sentence=f"beanstalkd at {self._server.host}: {sentence}")


@dataclass(eq=False, slots=True)
class _Grip:
    """One job in the hand of one connection, once; `gone_at` is when that is cut."""

    wire: _Wire
    job: "greenstalk.Job[bytes]"
    pri: int
    tries: int
    time_to_run: int
    gone_at: float = 0


@dataclass(frozen=True, slots=True)
class _Held(Lease):
    grip: _Grip = field(repr=False)


def _has_ended(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    # Its end; or an answer that nobody asked for, after which none could be believed.
    return True


def _lease_lost(id: int) -> LeaseLost:
    return LeaseLost(f"job {id}: the lease is lost")


def _whole(seconds: float) -> int:
    return math.ceil(min(max(0, seconds), HIGHEST_NUMBER))


def _fails(told: "greenstalk.StatsJob", tries: int) -> int:
    """How often the job failed, or its holder did.

    Each reserve that is over was a fail, unless a kick took it back. What was buried comes back
    only by a kick, which gives it as many tries again; the other kicks took back a reserve.
    """
    state = told["state"]
    kicked_up = told["buries"] - (state == "buried")
    taken_back = max(0, told["kicks"] - kicked_up)
    over = told["reserves"] - (state == "reserved")
    return max(0, over - taken_back - tries * kicked_up)


def _wrapped(put: Put) -> bytes:
    """A line of JSON that any program may write as well, and after it the body, if there is one:
    `{"task": "ad", "args": {...}}`."""
    head: dict[str, object] = {"task": put.task}
    if put.args:
        head["args"] = dict(put.args)
    if put.tries is not None:
        head["tries"] = put.tries
    text = json.dumps(head).encode()
    return text if put.body is None else text + b"\n" + put.body


def _unwrapped(data: bytes) -> Put:
    """What others put and is not in our words becomes a job of no task, with all of it as body."""
    text, newline, body = data.partition(b"\n")
    try:
        head = json.loads(text)
    except (ValueError, RecursionError):
        head = None
    match head:
        case {"task": str(task), **others}:
            args, tries = others.pop("args", {}), others.pop("tries", None)
            if not others and isinstance(args, dict) and isinstance(tries, int | None):
                return Put(task, args, body if newline else None, tries=tries)
    return Put("", body=data)


def _job(line: str, id: int, put: Put, state: JobState) -> Job:
    """A job of which nothing is known yet but what was put."""
    return Job(
        id=id,
        line=line,
        state=state,
        task=put.task,
        args=put.args,
        pri=put.pri,
        due=0,
        holder=None,
        attempt=0,
        fails=0,
        key=None,
        step="",
        stop_asked=False,
        result=None,
        error=None,
        put_at=0,
        taken_at=None,
        done_at=None,
        body=put.body,
        tries=put.tries,
    )
