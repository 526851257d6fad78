"""The store in this process and the real memcached, asked the same in the same order, say the
same: a fake that is kinder than the real thing is worse than none.

Time passes for both in steps of a second and a little. The real one's clock turns somewhere
within each second, so what a TTL has left may differ by one, and around its end an entry may
be there in one store and gone in the other: those answers are not compared.
"""

import asyncio
import contextlib
import random

import pytest

from queue_backend.clock import SystemClock
from queue_backend.errors import Unavailable
from queue_backend.people.memcached import MemcachedStore
from queue_backend.people.memory import MemoryStore
from queue_backend.people.store import LARGEST_VALUE_BYTES, Token

KEYS = [f"ns:0123456789ab:t:{number}" for number in range(14)]
TTLS = [0, 0, 3, 5, 60, 2_592_000]
STEPS = 8
STEP_SECONDS = 1.1
OPERATIONS_A_STEP = 60
SLACK = 1.05  # how far apart the two clocks' seconds may turn


class Pair:
    """Both stores, one operation at a time; and until when each key surely lives."""

    def __init__(self, memory, real, clock, dice):
        self.memory = memory
        self.real = real
        self.clock = clock
        self.dice = dice
        self.tokens: dict[str, list[tuple[Token, Token]]] = {}
        self.ends: dict[str, float] = {}
        self.operations = 0
        self.left_out = 0

    def written(self, key, ttl):
        if ttl:
            self.ends[key] = self.clock.monotonic() + ttl
        else:
            self.ends.pop(key, None)

    def uncertain(self, key):
        """It may have ended in one of them and not yet in the other."""
        end = self.ends.get(key)
        return end is not None and end - 1 - SLACK <= self.clock.monotonic() <= end + SLACK

    async def both(self, call, *args):
        self.operations += 1
        outcomes = []
        for store in (self.memory, self.real):
            try:
                outcomes.append(await getattr(store, call)(*args))
            except Unavailable as error:
                outcomes.append(error.code)
        return outcomes

    async def agree(self, call, *args):
        here, there = await self.both(call, *args)
        assert here == there, (call, args, here, there)
        return here

    async def one_operation(self):
        dice = self.dice
        keys = dice.sample(KEYS, dice.randint(1, 6))
        sure = [key for key in keys if not self.uncertain(key)]
        self.left_out += len(keys) - len(sure)
        if not sure:
            return
        key, ttl = sure[0], dice.choice(TTLS)
        values = {each: dice.randbytes(dice.randint(0, 60)) for each in sure}
        match dice.randrange(11):
            case 0 | 1:
                await self.look(key)
            case 2 | 3:
                await self.change(key, values[key], ttl)
            case 4:
                if await self.agree("add", key, values[key], ttl):
                    self.written(key, ttl)
            case 5:
                for added in await self.agree("add_many", values, ttl):
                    self.written(added, ttl)
            case 6:
                await self.agree("set_many", values, ttl)
                for each in values:
                    self.written(each, ttl)
            case 7:
                for touched in await self.agree("touch_many", sure, ttl):
                    self.written(touched, ttl)
            case 8:
                await self.agree("get_many", sure)
                here, there = await self.both("remaining", sure)
                assert here.keys() == there.keys()
                assert all(abs(here[each] - there[each]) <= 1 for each in here)
                assert all((here[each] == -1) == (there[each] == -1) for each in here)
            case 9:
                await self.agree("delete", key)
            case _:
                values[key] = bytes(LARGEST_VALUE_BYTES + 1)
                assert await self.agree("add", key, values[key], ttl) == "store-too-large"
                assert await self.agree("set_many", values, ttl) == "store-too-large"

    async def look(self, key):
        here, there = await self.both("gets", key)
        assert (here and here.value) == (there and there.value)
        if here is not None:
            self.tokens.setdefault(key, []).append((here.token, there.token))

    async def change(self, key, value, ttl):
        """By a token of this key that may be old by now."""
        if tokens := self.tokens.get(key):
            here, there = self.dice.choice(tokens[-2:])
            self.operations += 1
            changed = await self.memory.cas(key, value, here, ttl)
            assert changed == await self.real.cas(key, value, there, ttl)
            if changed:
                self.written(key, ttl)


@pytest.mark.parametrize("seed", [random.SystemRandom().randrange(10**9)])
async def test_the_same_said_to_both_stores_is_answered_the_same_by_both(memcached, seed):
    memcached.flush()
    clock = SystemClock()
    memory = MemoryStore(clock)
    with contextlib.closing(MemcachedStore("127.0.0.1", memcached.port, clock)) as real:
        pair = Pair(memory, real, clock, random.Random(seed))
        for _ in range(STEPS):
            for _ in range(OPERATIONS_A_STEP):
                await pair.one_operation()
            await asyncio.sleep(STEP_SECONDS)
    assert pair.operations > 300
