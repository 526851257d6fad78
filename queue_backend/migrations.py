"""The migrations: how a database written by an older Now Serving becomes one of today's.

Each is kept under the version that it starts from and leads to the next. New tables need none,
they are made afterwards where they are missing. The words here are SQL of their time, and not
today's tables: a migration must do the same when those have changed again.

On servers tables are changed at once, whatever the transaction says, and a migration that broke
off is run again. So each looks first whether its work is done.
"""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, inspect


def _one_row_a_people_line(connection: Connection) -> None:
    """From 1, which was only ever on SQLite: the checkpoint of a people's line moves into the
    line's row, and jobs get a body and tries of their own.

    Version 1 was written in two shapes: for a while one row a line was not yet counted as 2.
    """
    line = _columns(connection, "people_line")
    if line and "version" not in line:
        _run(
            connection,
            "ALTER TABLE people_line ADD COLUMN version BIGINT NOT NULL DEFAULT 0",
            "ALTER TABLE people_line ADD COLUMN body BLOB",
            """UPDATE people_line SET version = kept.version, body = kept.body
               FROM people_checkpoint AS kept WHERE kept.line = people_line.line""",
            "DROP TABLE people_checkpoint",
        )
    job = _columns(connection, "job")
    if job and "tries" not in job:
        _run(
            connection,
            "ALTER TABLE job ADD COLUMN tries INTEGER",
            "ALTER TABLE job ADD COLUMN body BLOB",
        )


MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {1: _one_row_a_people_line}


def _columns(connection: Connection, table: str) -> set[str]:
    """Nothing where there is no such table."""
    looking = inspect(connection)
    if not looking.has_table(table):
        return set()
    return {column["name"] for column in looking.get_columns(table)}


def _run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)
