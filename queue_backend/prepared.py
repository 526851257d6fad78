"""A prepared statement: compiled once, for what is asked thousands of times.

SQLite answers in microseconds what SQLAlchemy takes fifty to ask. So there the statement is
compiled once, by SQLAlchemy, and then handed to the driver with its values; values and columns
are converted by the types of the schema as always. On a server the round trip costs more than
all this, and the statement goes the ordinary way.

Kept out: what is asked (`work/statements.py`), and transactions (`database.py`).
"""

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Delete, Insert, Select, Update
from sqlalchemy.exc import DBAPIError

# A row with its columns by name: SQLAlchemy's, or a named tuple like it.
Row: TypeAlias = Any
Convert: TypeAlias = Callable[[Any], Any] | None


class _Bound(NamedTuple):
    name: str
    value: object  # of a constant in the statement; None where it has to be given
    convert: Convert


class _Compiled:
    """One statement for SQLite."""

    def __init__(self, statement: "Select[Any] | Update | Insert", connection: Connection) -> None:
        dialect = connection.dialect
        compiled: Any = statement.compile(
            dialect=dialect, compile_kwargs={"render_postcompile": True}
        )
        self.sql = str(compiled)
        values = compiled.params
        self.bound = [
            _Bound(name, values.get(name), compiled.binds[name].type.bind_processor(dialect))
            if name in compiled.binds
            else _Bound(name, values[name], None)  # one of the values of an IN
            for name in compiled.positiontup
        ]
        self.make_row: Callable[..., Row] | None = None
        self.convert: list[tuple[int, Callable[[Any], Any]]] = []
        if isinstance(statement, Select):
            columns = list(statement.selected_columns)
            named: Any = namedtuple  # its fields are known only here, to no type checker
            names = [str(column.key) for column in columns]
            self.make_row = named("Row", names, rename=True)._make
            for at, column in enumerate(columns):
                convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
                if convert is not None:
                    self.convert.append((at, convert))

    def run(self, connection: Connection, values: Mapping[str, object]) -> sqlite3.Cursor:
        given = [
            convert(value) if convert is not None else value
            for name, constant, convert in self.bound
            for value in (values[name] if name in values else constant,)
        ]
        driver: Any = connection.connection.driver_connection
        try:
            cursor: sqlite3.Cursor = driver.execute(self.sql, given)
        except sqlite3.Error as error:
            raise DBAPIError.instance(
                self.sql, None, error, sqlite3.Error, hide_parameters=True
            ) from error
        return cursor

    def row(self, found: Sequence[Any]) -> Row:
        assert self.make_row is not None
        if not self.convert:
            return self.make_row(found)
        converted = list(found)
        for at, convert in self.convert:
            converted[at] = convert(converted[at])
        return self.make_row(converted)


class Prepared:
    """`statement` with named parameters, to be asked again and again."""

    def __init__(self, statement: "Select[Any] | Update | Insert | Delete") -> None:
        self.statement = statement
        self._compiled: _Compiled | None = None

    def one(self, connection: Connection, values: Mapping[str, object]) -> Row:
        """The only row, or None."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, values).one_or_none()
        compiled = self._for(connection)
        found = compiled.run(connection, values).fetchone()
        return None if found is None else compiled.row(found)

    def change(self, connection: Connection, values: Mapping[str, object]) -> int:
        """How many rows were changed."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, values).rowcount
        return self._for(connection).run(connection, values).rowcount

    def insert(self, connection: Connection, values: Mapping[str, object]) -> int:
        """The new row's id."""
        if connection.dialect.name != "sqlite":
            key: Any = connection.execute(self.statement, values).inserted_primary_key
            return int(key[0])
        made = self._for(connection).run(connection, values).lastrowid
        assert made is not None
        return made

    def _for(self, connection: Connection) -> _Compiled:
        if self._compiled is None:
            self._compiled = _Compiled(self.statement, connection)  # type: ignore[arg-type]
        return self._compiled
