"""The durable dictionary: a few values by name that must outlive every process.

A program in threads uses it as the dictionary it is; one on an event loop, which must never
wait for the disk, by the verbs that give an Answer. Both see what other processes wrote.

Kept out: values that change often (each change is a commit), and much of anything.
"""

from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    String,
    Table,
    bindparam,
    delete,
    func,
    select,
    update,
)

from queue_backend import serializers
from queue_backend.answer import Answer
from queue_backend.database import Database, metadata
from queue_backend.engine import insert_unless_there

LONGEST_KEY = 255

entries = Table(
    "durable_entry",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("key", String(LONGEST_KEY), primary_key=True),
    Column("value", LargeBinary(16_000_000), nullable=False),
)

_mine = entries.c.name == bindparam("of_name")
_this = entries.c.key == bindparam("of_key")

_all = select(entries.c.key, entries.c.value).where(_mine).order_by(entries.c.key)
_keys = select(entries.c.key).where(_mine).order_by(entries.c.key)
_count = select(func.count()).select_from(entries).where(_mine)
_value = select(entries.c.value).where(_mine, _this)
_value_locked = _value.with_for_update()
_put = update(entries).where(_mine, _this).values(value=bindparam("to_value"))
_drop = delete(entries).where(_mine, _this)
_drop_all = delete(entries).where(_mine)


class PDict(MutableMapping[str, Any]):
    """The entries under `name` in `database`; keys are texts, values what the serializer takes.

    `d["x"] = 1` is on disk when it returns. A value that was got is a copy: change it, and
    assign it again. Each verb is one step for all processes; two after each other are not, so
    a value that becomes another (a counter) is written by `change`.

    Iterating shows all as they were at one moment.
    """

    def __init__(self, database: Database, name: str, *, serializer: str = "json") -> None:
        self.name = name
        self._database = database
        self._dumps, self._loads = serializers.named(serializer)

    # On an event loop

    def fetch(self, key: str, default: Any = None) -> Answer[Any]:
        """The value of `key`, or `default`."""

        def look(connection: Connection) -> Any:
            found = connection.execute(_value, self._of(key)).scalar_one_or_none()
            return default if found is None else self._loads(found)

        return self._database.read(look)

    def fetch_all(self) -> Answer[dict[str, Any]]:
        """All entries, by their keys, as they were at one moment."""

        def look(connection: Connection) -> dict[str, Any]:
            rows = connection.execute(_all, {"of_name": self.name})
            return {key: self._loads(value) for key, value in rows}

        return self._database.read(look)

    def store(self, key: str, value: Any) -> Answer[None]:
        """The entry is on disk when this is answered."""
        to = {**self._of(key), "to_value": self._dumps(value)}

        def act(connection: Connection) -> None:
            if not connection.execute(_put, to).rowcount:
                self._enter(connection, key, to["to_value"])
                # Another process may have entered it first.
                connection.execute(_put, to)

        return self._database.write(act)

    def change(self, key: str, become: Callable[[Any], Any], default: Any = None) -> Answer[Any]:
        """Store `become(value)`, of `default` where there is none, and answer it; nobody
        changes the entry meanwhile. `become` must do nothing else: it may be called twice."""
        of, first = self._of(key), self._dumps(default)

        def act(connection: Connection) -> Any:
            self._enter(connection, key, first)  # a row that is not there cannot be locked
            value = become(self._loads(connection.execute(_value_locked, of).scalar_one()))
            connection.execute(_put, {**of, "to_value": self._dumps(value)})
            return value

        return self._database.write(act)

    def forget(self, key: str) -> Answer[bool]:
        """False: there was no such entry."""
        of = self._of(key)
        return self._database.write(lambda connection: connection.execute(_drop, of).rowcount > 0)

    # As a dictionary, which waits: not on an event loop

    def __getitem__(self, key: str) -> Any:
        value = self.fetch(key, _NOTHING).result()
        if value is _NOTHING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.store(key, value).result()

    def __delitem__(self, key: str) -> None:
        if not self.forget(key).result():
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        of = {"of_name": self.name}
        return iter(
            self._database.read(lambda each: each.execute(_keys, of).scalars().all()).result()
        )

    def __len__(self) -> int:
        of = {"of_name": self.name}
        return int(self._database.read(lambda each: each.execute(_count, of).scalar_one()).result())

    def items(self) -> ItemsView[str, Any]:
        return self.fetch_all().result().items()

    def values(self) -> ValuesView[Any]:
        return self.fetch_all().result().values()

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self.change(key, lambda value: value, default).result()

    def clear(self) -> None:
        of = {"of_name": self.name}
        self._database.write(lambda connection: connection.execute(_drop_all, of).close()).result()

    def _of(self, key: str) -> dict[str, object]:
        # Said here, because SQLite would take a longer one and a server would not.
        if not isinstance(key, str) or len(key) > LONGEST_KEY:
            raise TypeError(f"a key is a text of at most {LONGEST_KEY} characters")
        return {"of_name": self.name, "of_key": key}

    def _enter(self, connection: Connection, key: str, value: object) -> None:
        insert_unless_there(connection, entries, {"name": self.name, "key": key, "value": value})


_NOTHING = object()
