"""Anything, in any order: people, operators, losses and dying processes at one line, and after
every step the promises. In the end everybody who is still there is served.

The same machine runs over the store in this process, where time passes for everything, and over
a real memcached, whose own clock stands still meanwhile: nobody falls silent there.
"""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from queue_backend.clock import SystemClock
from queue_backend.errors import LineClosed, NotFound, WrongState
from queue_backend.people.marshal import LEAD_SECONDS
from queue_backend.people.memcached import MemcachedStore
from queue_backend.people.roster import FEWEST_FOR_ESTIMATE, Gate, Words
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import State
from tests.fakes import Clock
from tests.people_cases import INES, Room, TroubledStore, Visitor

RULES = Rules(
    places=2,
    call_ahead=1,
    max_waiting=1_000,
    answer_seconds=8,
    answer_extend_seconds=4,
    desk_lease_seconds=10,
    desk_extend_seconds=5,
    extends=2,
    away_after_seconds=6,
    silent_aside_seconds=10,
    aside_seconds=14,
    undo_seconds=4,
    freeze_seconds=5,
    suspect_seconds=4,
    call_patience_seconds=3,
    ended_keep_seconds=6,
)
SORRY = Words("So it is", "就这样")
AT_DESK = {State.READY, State.SERVING}

# What may become between two polls of somebody who goes on asking, by time alone.
BY_TIME = {
    State.WAITING: {State.CALLED},
    State.CALLED: {State.ASIDE},
    State.READY: {State.SERVING},
    State.SERVING: {State.ASIDE},
    State.ASIDE: {State.EXPIRED},
}
# And what, besides, when only the browsers' own tickets were left.
BY_LOSS = {
    State.CALLED: {State.WAITING},
    State.READY: {State.WAITING, State.SERVING},
    State.SERVING: {State.WAITING},
}


class Person(Visitor):
    def __init__(self, room, ticket, process):
        super().__init__(room, ticket, process)
        self.here = True
        self.every = 1 + ticket.number % 3  # seconds from asking to asking
        self.old_paper = ticket
        self.exceptional = False  # stands elsewhere than the number says, by an act of its own
        self.expected: State | None = State.WAITING  # None: whatever it is, by an act
        self.lost = False

    @property
    def over(self):
        return self.expected is not None and self.expected.ended

    def may_be(self, state, void_below):
        if self.expected in (None, state):
            return True
        may = set(BY_TIME.get(self.expected, ()))
        if self.lost:
            may |= BY_LOSS.get(self.expected, set())
        if self.number < void_below and not self.expected.ended:
            may.add(State.VOID)
        return state in may


class LineMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.broken = False
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        store = self.open_store()
        self.room = Room(Path(self.directory.name), self.clock, RULES, store)
        self.people: list[Person] = []
        self.given: set[int] = set()
        self.finished = 0  # visits that this roster may have measured
        self.serving = 0
        self.void_below = 0

    def open_store(self):
        return None  # the room's own, in this process

    def run_out(self, process):
        """A dead marshal's lock ends by its TTL."""

    @initialize(people=st.integers(3, 10))
    def two_processes_begin_and_people_come(self, people):
        self.room.start()
        self.run(self.every_line_reads())
        self.run(self.take([self.processes[n % 2] for n in range(people)]))
        self.run(self.pass_time(1))

    def run(self, coroutine):
        try:
            return self.runner.run(coroutine)
        except BaseException:
            self.broken = True
            raise

    @property
    def processes(self):
        return [process for process in self.room.processes if process.alive]

    @property
    def roster(self):
        return self.processes[0].line._known()

    async def every_line_reads(self):
        for process in self.processes:
            await process.line.refresh()

    # What people do

    @rule(data=st.data(), count=st.integers(1, 4))
    def people_take_tickets(self, data, count):
        processes = [data.draw(st.sampled_from(self.processes)) for _ in range(count)]
        self.run(self.take(processes))

    async def take(self, processes):
        outcomes = await asyncio.gather(
            *(self.room.take("Ada", None, process) for process in processes),
            return_exceptions=True,
        )
        before = max(self.given, default=0)
        for outcome, process in zip(outcomes, processes, strict=True):
            if isinstance(outcome, LineClosed):
                assert self.roster.gate in (Gate.CLOSED, Gate.DRAINING)
                continue
            assert isinstance(outcome, Visitor), outcome
            assert outcome.number not in self.given, "S1: a number was given twice"
            assert outcome.number > before, "S2: a later join has a smaller number"
            self.given.add(outcome.number)
            self.people.append(Person(self.room, outcome.ticket, process))

    def present(self):
        return [person for person in self.people if person.here and not person.over]

    @precondition(lambda self: self.present())
    @rule(
        data=st.data(),
        verb=st.sampled_from(
            ["confirm", "confirm", "finish", "finish", "leave", "extend", "come_back", "give_way"]
        ),
    )
    def somebody_acts(self, data, verb):
        self.run(self.act(data.draw(st.sampled_from(self.present())), verb))

    @precondition(lambda self: any(person.expected is State.CALLED for person in self.people))
    @rule()
    def all_who_are_called_come(self):
        self.run(self.each_acts(State.CALLED, "confirm"))

    @precondition(lambda self: any(person.expected is State.SERVING for person in self.people))
    @rule()
    def all_at_the_desk_finish(self):
        self.run(self.each_acts(State.SERVING, "finish"))

    async def each_acts(self, state, verb):
        for person in self.present():
            if person.expected is state:
                await self.act(person, verb)

    @precondition(lambda self: self.people)
    @rule(data=st.data(), verb=st.sampled_from(["undo", "undo", "retry"]))
    def somebody_who_went_comes_back(self, data, verb):
        went = [person for person in self.people if person.here and person.over]
        if went:
            self.run(self.act(data.draw(st.sampled_from(went)), verb))

    async def act(self, person, verb):
        try:
            if verb == "finish":
                await person.act("turn")
            standing = await person.act(verb)
        except (WrongState, LineClosed):
            return
        person.expected = standing.state
        if verb in ("undo", "come_back", "give_way"):
            person.exceptional = True
        if verb == "finish":
            self.finished += 1

    @precondition(lambda self: self.present())
    @rule(data=st.data())
    def somebody_vanishes(self, data):
        data.draw(st.sampled_from(self.present())).here = False

    @precondition(lambda self: not all(person.here for person in self.people))
    @rule(data=st.data())
    def somebody_is_there_again(self, data):
        gone = [person for person in self.people if not person.here]
        person = data.draw(st.sampled_from(gone))
        person.here, person.expected = True, None

    # What operators do

    @rule(
        data=st.data(),
        verb=st.sampled_from(["pause", "open", "open", "open", "drain"]),
    )
    def the_gate_is_turned(self, data, verb):
        line = data.draw(st.sampled_from(self.processes)).line
        self.run(line.pause(INES, SORRY) if verb == "pause" else getattr(line, verb)(INES))

    @rule(data=st.data(), stays_closed=st.booleans())
    def the_line_is_closed(self, data, stays_closed):
        line = data.draw(st.sampled_from(self.processes)).line
        self.run(self.close(line, stays_closed))

    async def close(self, line, stays_closed):
        await line.close(INES, SORRY)
        roster = await line.refresh()
        self.void_below = roster.void_below
        for person in self.people:
            if not person.over and roster.state(person.number) not in AT_DESK:
                person.expected = None
        if not stays_closed:
            await line.open(INES)

    @rule(data=st.data(), places=st.integers(0, 3))
    def places_are_set(self, data, places):
        self.run(data.draw(st.sampled_from(self.processes)).line.set_places(INES, places))

    @precondition(lambda self: self.people)
    @rule(
        data=st.data(),
        verb=st.sampled_from(["call", "set_aside", "put_back", "move", "move", "remove"]),
        position=st.integers(1, 9),
    )
    def an_operator_acts(self, data, verb, position):
        person = data.draw(st.sampled_from(self.people))
        line = data.draw(st.sampled_from(self.processes)).line
        self.run(self.operate(line, person, verb, position))

    async def operate(self, line, person, verb, position):
        more = {"move": (position, SORRY), "remove": (SORRY,)}.get(verb, ())
        try:
            await getattr(line, verb)(INES, person.number, *more)
        except (WrongState, NotFound):
            return
        person.expected = None
        person.exceptional = True

    # What time does

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds):
        self.run(self.pass_time(seconds))

    async def pass_time(self, seconds):
        for _ in range(seconds):
            self.clock.tick(1)
            for process in self.processes:
                before = await process.line.refresh()
                await process.line.round()
                self.check_calls(before, process.line._known())
            await self.people_ask()
            for process in self.processes:
                before = await process.line.refresh()
                await process.marshal.tick()
                self.check_calls(before, process.line._known())

    async def people_ask(self):
        now = int(self.clock.monotonic())
        for person in self.people:
            if not person.here or (now + person.number) % person.every:
                continue
            if not person.process.alive:
                person.process = self.processes[person.number % len(self.processes)]
            state = (await person.poll()).state
            assert person.may_be(state, self.void_below), (
                f"S5: {person.expected} became {state} for {person}"
            )
            person.expected, person.lost = state, False

    def check_calls(self, before, after):
        called = [n for n in after.numbers(State.CALLED) if before.state(n) is State.WAITING]
        if not called:
            return
        assert not after.frozen, "called while the line was being put back in order"
        assert after.gate in (Gate.OPEN, Gate.DRAINING)
        for number in called:
            for waiting in after.order:
                assert before.order.rank(number) < before.order.rank(waiting), (
                    f"S3: {number} was called before {waiting}"
                )
        ordinary = {person.number for person in self.people if not person.exceptional}
        for person in self.people:
            if person.here and person.expected is State.WAITING and not person.exceptional:
                if person.number not in called and after.state(person.number) in (
                    State.WAITING,
                    None,
                ):
                    assert not [n for n in called if n > person.number and n in ordinary], (
                        f"S3: {called} were called before {person}"
                    )

    # What is lost

    @rule()
    def the_store_is_flushed(self):
        self.room.store.lose_everything()

    @rule(data=st.data())
    def a_process_dies_and_another_begins(self, data):
        process = data.draw(st.sampled_from(self.processes))
        self.room.kill(process)
        self.run_out(process)
        self.room.start()
        self.run(self.every_line_reads())

    @rule()
    def only_the_browsers_tickets_are_left(self):
        self.run(self.lose_all())

    async def lose_all(self):
        self.room.store.lose_everything()
        for process in self.processes:
            self.room.kill(process)
        await self.room.lose_checkpoint()
        self.room.start()
        self.room.start()
        self.finished = self.serving = 0
        for person in self.people:
            person.lost = True
            if not person.over and person.number < self.void_below:
                person.expected = None
        await self.every_line_reads()
        for person in self.people:
            if person.over and person.expected is not State.VOID:
                standing = await self.processes[0].line.stand(person.old_paper)
                assert standing.state is person.expected, "a ticket that had ended is back"

    # The promises

    @invariant()
    def the_promises_hold(self):
        if len(self.room.processes) > 1:
            self.run(self.check())

    async def check(self):
        await self.every_line_reads()
        rosters = [process.line._known() for process in self.processes]
        assert len({(each.generation, each.version) for each in rosters}) == 1
        roster = rosters[0]
        order = list(roster.order)
        seated = sum(roster.count(state) for state in (State.CALLED, State.READY, State.SERVING))

        serving = roster.count(State.SERVING)
        assert serving <= max(roster.places, self.serving), "S4: more at the desk than places"
        self.serving = serving

        ordinary = {person.number for person in self.people if not person.exceptional}
        in_order = [number for number in order if number in ordinary]
        assert in_order == sorted(in_order), "S2: the order is not that of joining"

        for person in self.people:
            if not person.here or person.expected is not State.WAITING:
                continue
            if person.lost and person.number not in order:
                continue  # until the next poll
            for process in self.processes:
                standing = await process.line.stand(person.ticket)
                if standing.state is not State.WAITING:
                    continue
                place = order.index(person.number)
                assert standing.ahead == seated + place, "S10: the position is not exact"
                assert standing.behind == len(order) - place - 1
                assert standing.rev == roster.version
                if self.finished < FEWEST_FOR_ESTIMATE:
                    assert standing.estimate is None, "an estimate from fewer than five visits"

    def teardown(self):
        try:
            if not self.broken and len(self.room.processes) > 1:
                self.run(self.everybody_is_served())
        finally:
            self.room.close()
            self.room.store.inner.close()
            self.directory.cleanup()
            self.runner.close()

    async def everybody_is_served(self):
        """After the last fault: the living are called, in order, until nobody waits."""
        line = self.processes[0].line
        await line.open(INES)
        await line.set_places(INES, 2)
        for _ in range(int(RULES.freeze_seconds) + LEAD_SECONDS + 2 + 12 * len(self.people)):
            await self.pass_time(1)
            for person in self.present():
                match person.expected:
                    case State.CALLED:
                        await self.act(person, "confirm")
                    case State.SERVING:
                        await self.act(person, "finish")
                    case State.ASIDE:
                        await self.act(person, "come_back")
            await self.check()
            if not self.present():
                return
        raise AssertionError(f"still waiting: {self.present()}")


def settled(max_examples, steps):
    return settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def test_the_promises_hold_whatever_happens():
    run_state_machine_as_test(LineMachine, settings=settled(60, 40))


def test_the_promises_hold_over_a_real_memcached(memcached):
    class RealStore(TroubledStore):
        def lose_everything(self):
            memcached.flush()

    class OverMemcached(LineMachine):
        def open_store(self):
            memcached.flush()
            return RealStore(MemcachedStore("127.0.0.1", memcached.port, SystemClock()))

        def run_out(self, process):
            # memcached's clock does not run with ours.
            self.run(self.room.store.delete(process.line._lead_key))

    run_state_machine_as_test(OverMemcached, settings=settled(8, 25))
