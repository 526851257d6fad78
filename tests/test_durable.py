"""The durable dictionary: in threads, on an event loop, between processes, on every engine."""

import subprocess
import sys
import threading

import pytest

from queue_backend import serializers
from queue_backend.database import Database
from queue_backend.durable import LONGEST_KEY, PDict
from queue_backend.errors import Unsupported
from tests.processes import ROOT


@pytest.fixture(params=("sqlite", "mariadb", "postgresql"))
def address(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'kept.db'}"
        return
    server = request.getfixturevalue(request.param)
    made = server.new_database()
    yield made
    server.drop(made)


@pytest.fixture
def database(address):
    opened = Database(address)
    yield opened
    opened.close()


@pytest.fixture
def kept(database):
    return PDict(database, "kept")


def test_it_is_a_dictionary(kept):
    kept["a"] = 1
    kept["b"] = {"reason": ["今天关门", None, 1.5, True]}
    kept["a"] = 2
    assert (kept["a"], kept["b"]) == (2, {"reason": ["今天关门", None, 1.5, True]})
    assert "a" in kept and "c" not in kept
    assert kept.get("c") is None and kept.get("c", 7) == 7
    assert kept.pop("a") == 2 and kept.pop("a", None) is None
    assert len(kept) == 1


def test_it_can_be_looked_through(kept):
    for key in ("c", "a", "b"):
        kept[key] = key.upper()
    assert list(kept) == list(kept.keys()) == ["a", "b", "c"]
    assert list(kept.values()) == ["A", "B", "C"]
    assert dict(kept) == dict(kept.items()) == {"a": "A", "b": "B", "c": "C"}
    kept.clear()
    assert dict(kept) == {} and len(kept) == 0


def test_it_may_be_changed_while_it_is_looked_through(kept):
    kept.update({"a": 1, "b": 2})
    for key, value in kept.items():
        kept[key.upper()] = value
        del kept[key]
    assert dict(kept) == {"A": 1, "B": 2}


def test_what_is_not_there_is_a_key_error(kept):
    with pytest.raises(KeyError, match="'a'"):
        kept["a"]
    with pytest.raises(KeyError, match="'a'"):
        del kept["a"]


def test_none_is_a_value(kept):
    kept["a"] = None
    assert "a" in kept and kept["a"] is None


@pytest.mark.parametrize("key", [1, None, b"a", "a" * (LONGEST_KEY + 1)])
def test_a_key_is_a_text(kept, key):
    with pytest.raises(TypeError, match="a key is a text"):
        kept[key] = 1


def test_keys_differ_in_each_letter(kept):
    kept.update({"é": 1, "e": 2, "E": 3, "e ": 4, "k" * LONGEST_KEY: 5})
    assert [kept[key] for key in ("é", "e", "E", "e ", "k" * LONGEST_KEY)] == [1, 2, 3, 4, 5]


def test_a_value_that_does_not_serialize_changes_nothing(kept):
    kept["a"] = 1
    with pytest.raises(TypeError):
        kept["a"] = object()
    assert kept["a"] == 1


def test_dictionaries_of_other_names_are_others(kept, database):
    other = PDict(database, "other")
    kept["a"], other["a"] = 1, 2
    kept.clear()
    assert dict(other) == {"a": 2}


async def test_an_event_loop_asks_without_waiting_for_the_disk(kept):
    assert await kept.fetch("a") is None
    await kept.store("a", [1])
    assert await kept.fetch("a") == [1]
    assert await kept.fetch_all() == {"a": [1]}
    assert await kept.change("a", lambda value: [*value, 2]) == [1, 2]
    assert await kept.forget("a") is True
    assert await kept.forget("a") is False
    assert await kept.fetch("a", "nothing") == "nothing"


def test_a_change_is_one_step_for_all_threads(kept):
    def count():
        for _ in range(25):
            kept.change("n", lambda value: value + 1, 0).result()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept["n"] == 100


COUNT = """
import sys
from queue_backend.database import Database
from queue_backend.durable import PDict
database = Database(sys.argv[1])
kept = PDict(database, "kept")
for each in range(50):
    kept.change("n", lambda value: value + 1, 0).result()
    kept.setdefault(f"first-{each}", sys.argv[2])
database.close()
"""


def test_a_change_is_one_step_for_all_processes(kept, address):
    """And of those who set the same entry first, one is the first for all."""
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNT, address, str(at)], cwd=ROOT)
        for at in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert kept["n"] == 150
    assert len(kept) == 51


def test_what_was_stored_survives_the_process(address):
    before = Database(address)
    PDict(before, "kept")["a"] = 1
    before.close()
    after = Database(address)
    assert PDict(after, "kept")["a"] == 1
    after.close()


@pytest.mark.parametrize("name", ["json", "msgpack", "cbor2", "pickle"])
def test_each_serializer_gives_back_what_it_was_given(database, name):
    kept = PDict(database, "kept", serializer=name)
    value = {"text": "张伟", "numbers": [1, -2.5, None, True], "deep": {"a": [{}]}}
    kept["a"] = value
    assert kept["a"] == value


@pytest.mark.parametrize("name", ["msgpack", "cbor2"])
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unsupported, match=f"pip install {name}"):
        serializers.named(name)


def test_a_serializer_nobody_knows_is_refused_in_words():
    with pytest.raises(Unsupported, match="json, msgpack, cbor2, pickle"):
        serializers.named("yaml")


def test_equal_dictionaries_are_equal_bytes_in_json():
    dumps, _ = serializers.named("json")
    assert dumps({"a": 1, "b": 2}) == dumps({"b": 2, "a": 1})
