"""What a line may rely on from its store: one suite, which every store has to pass.

A class that inherits from it gives the fixtures `store`, an empty one, and `pass_time`, which
lets seconds go by for that store.
"""

import asyncio

import pytest

from queue_backend.errors import Unavailable
from queue_backend.people.store import LARGEST_VALUE_BYTES, Found, Store


async def read(store: Store, key: str) -> Found:
    found = await store.gets(key)
    assert found is not None, f"{key} is not there"
    return found


class StoreContract:
    async def test_what_is_not_there_is_read_as_absent(self, store):
        assert await store.gets("nothing") is None
        assert await store.get_many(["nothing", "else"]) == {}
        assert await store.remaining(["nothing"]) == {}
        assert await store.touch_many(["nothing"], 60) == set()

    @pytest.mark.parametrize("value", [b"", b"\r\n", b"END\r\n", bytes(range(256)), b"x" * 70_000])
    async def test_a_value_is_kept_byte_by_byte(self, store, value):
        assert await store.add("a", value)
        assert (await read(store, "a")).value == value
        assert await store.cas("a", value + b"!", (await read(store, "a")).token)
        assert await store.get_many(["a"]) == {"a": value + b"!"}
        await store.set_many({"b": value}, 60)
        assert (await read(store, "b")).value == value
        assert await store.add_many({"c": value}, 60) == {"c"}
        assert (await read(store, "c")).value == value

    async def test_add_adds_only_where_nothing_is_and_says_so(self, store):
        assert await store.add("a", b"first")
        assert not await store.add("a", b"second")
        assert (await read(store, "a")).value == b"first"

    async def test_of_two_who_add_at_once_one_wins(self, store):
        won = await asyncio.gather(*(store.add("a", b"%d" % n) for n in range(9)))
        assert won.count(True) == 1
        assert (await read(store, "a")).value == b"%d" % won.index(True)

    async def test_many_are_added_where_nothing_is(self, store):
        await store.add("b", b"old")
        added = await store.add_many({"a": b"1", "b": b"2", "c": b"3"}, 60)
        assert added == {"a", "c"}
        assert await store.get_many("abc") == {"a": b"1", "b": b"old", "c": b"3"}

    async def test_cas_replaces_only_what_was_read(self, store):
        await store.add("a", b"one")
        token = (await read(store, "a")).token
        assert await store.cas("a", b"two", token)
        assert not await store.cas("a", b"three", token)
        assert (await read(store, "a")).value == b"two"

    async def test_cas_does_not_bring_back_what_is_gone(self, store):
        await store.add("a", b"one")
        token = (await read(store, "a")).token
        await store.delete("a")
        assert not await store.cas("a", b"two", token)
        assert await store.gets("a") is None

    async def test_cas_knows_a_new_value_in_the_old_place(self, store):
        """Even the same bytes: somebody made it anew."""
        await store.add("a", b"one")
        token = (await read(store, "a")).token
        await store.delete("a")
        await store.add("a", b"one")
        assert not await store.cas("a", b"two", token)

    async def test_cas_knows_a_value_that_was_set_meanwhile(self, store):
        await store.add("a", b"one")
        token = (await read(store, "a")).token
        await store.set_many({"a": b"one"}, 60)
        assert not await store.cas("a", b"two", token)

    async def test_looking_and_touching_change_nothing_for_cas(self, store):
        await store.add("a", b"one", 60)
        token = (await read(store, "a")).token
        await store.touch_many(["a"], 90)
        await store.remaining(["a"])
        await store.get_many(["a"])
        assert await store.cas("a", b"two", token)

    async def test_no_change_by_cas_is_lost_when_many_change_at_once(self, store):
        await store.add("count", b"0")

        async def count_one_more():
            while True:
                found = await read(store, "count")
                await asyncio.sleep(0)
                more = b"%d" % (int(found.value) + 1)
                if await store.cas("count", more, found.token):
                    return

        await asyncio.gather(*(count_one_more() for _ in range(12)))
        assert (await read(store, "count")).value == b"12"

    async def test_what_is_deleted_is_gone_and_deleting_nothing_is_no_error(self, store):
        await store.add("a", b"one")
        await store.delete("a")
        await store.delete("a")
        assert await store.gets("a") is None

    async def test_set_replaces_whatever_is_there(self, store):
        await store.add("a", b"one")
        await store.set_many({"a": b"two", "b": b"three"}, 60)
        assert await store.get_many(["a", "b"]) == {"a": b"two", "b": b"three"}

    async def test_thousands_of_keys_travel_at_once(self, store):
        values = {f"ns:{n:012x}:t:{n}": b'["%d"]' % n for n in range(3_000)}
        assert await store.add_many(values, 60) == set(values)
        assert await store.add_many(values, 60) == set()
        await store.set_many(values, 60)
        assert await store.get_many([*values, "nothing"]) == values
        assert await store.touch_many([*values, "nothing"], 90) == set(values)
        left = await store.remaining([*values, "nothing"])
        assert set(left) == set(values)
        assert set(left.values()) <= {89, 90}

    async def test_nothing_asked_is_nothing_answered(self, store):
        assert await store.add_many({}, 60) == set()
        await store.set_many({}, 60)
        assert await store.get_many([]) == {}
        assert await store.touch_many([], 60) == set()
        assert await store.remaining([]) == {}

    async def test_the_largest_value_is_kept(self, store):
        assert await store.add("a", bytes(LARGEST_VALUE_BYTES))
        assert await store.cas("a", b"\1" * LARGEST_VALUE_BYTES, (await read(store, "a")).token)
        assert (await read(store, "a")).value == b"\1" * LARGEST_VALUE_BYTES

    async def test_a_value_that_is_too_large_is_refused_and_the_old_one_stays(self, store):
        await store.add("a", b"old")
        too_large = bytes(LARGEST_VALUE_BYTES + 1)
        with pytest.raises(Unavailable, match="bytes"):
            await store.cas("a", too_large, (await read(store, "a")).token)
        with pytest.raises(Unavailable, match="bytes"):
            await store.add("b", too_large)
        with pytest.raises(Unavailable, match="bytes"):
            await store.add("a", too_large)
        with pytest.raises(Unavailable, match="bytes"):
            await store.add_many({"b": b"small", "c": too_large}, 60)
        with pytest.raises(Unavailable, match="bytes"):
            await store.set_many({"a": b"small", "c": too_large}, 60)
        assert (await read(store, "a")).value == b"old"
        assert await store.gets("b") is None

    async def test_an_entry_lives_between_a_second_less_than_asked_and_what_was_asked(
        self, store, pass_time
    ):
        await store.add("added", b"1", 4)
        await store.add("changed", b"1", 60)
        await store.cas("changed", b"2", (await read(store, "changed")).token, 4)
        await store.add_many({"many": b"1"}, 4)
        await store.set_many({"set": b"1"}, 4)
        await store.add("touched", b"1", 60)
        await store.touch_many(["touched"], 4)
        short = {"added", "changed", "many", "set", "touched"}

        await store.add("renewed", b"1", 4)
        await store.add("looked-at", b"1", 4)
        await store.add("for-ever", b"1")
        await store.add("no-more-end", b"1", 4)
        await store.cas("no-more-end", b"2", (await read(store, "no-more-end")).token)
        gone = await read(store, "added")

        left = await store.remaining([*short, "for-ever", "no-more-end"])
        assert {left.pop("for-ever"), left.pop("no-more-end")} == {-1}
        assert set(left.values()) <= {3, 4}

        await pass_time(1.5)
        left = await store.remaining(short)
        assert set(left) == short
        assert set(left.values()) <= {1, 2, 3}
        assert await store.touch_many(["renewed"], 60) == {"renewed"}
        await store.get_many(["looked-at"])
        await store.remaining(["looked-at"])

        await pass_time(2.7)
        assert set(await store.get_many([*short, "looked-at"])) == set()
        assert await store.remaining(short) == {}
        assert await store.touch_many(short, 60) == set()
        assert set(await store.get_many(["renewed", "for-ever", "no-more-end"])) == {
            "renewed",
            "for-ever",
            "no-more-end",
        }
        assert not await store.cas("added", b"2", gone.token)
        assert await store.add("many", b"2", 4)

    async def test_it_says_when_it_is_ready(self, store):
        await store.ready()
