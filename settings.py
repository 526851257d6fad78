"""Every knob: its default, its unit, half a line of meaning.

Read once at the start, by `app.py` alone, from a TOML file and from `NOWSERVING_*` variables
(which win; `__` leads into a table: `NOWSERVING_LINES__DESK__PLACES=3`). What is not a
setting here stops the start: a misspelt setting is worse than none.

Kept out: what the settings are for (the parts are handed plain values), and every secret;
of operators only the hashes of their passwords stand here.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

PREFIX = "NOWSERVING_"
DEFAULT_FILE = Path("now-serving.toml")


class BadSettings(Exception):
    """The settings do not read; the text says which, where and what would do."""


def _line_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name):
        raise ValueError(
            "a line's name is 1 to 32 small letters, digits and hyphens, beginning with a letter"
        )
    return name


def _operator_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9._-]{0,31}", name):
        raise ValueError(
            "an operator's name is 1 to 32 small letters, digits, dots, hyphens and"
            " underscores, beginning with a letter"
        )
    return name


def _password_hash(text: str) -> str:
    if not text.startswith("$argon2id$"):
        raise ValueError("not a hash made by `python app.py hash-password`")
    return text


def _store(text: str) -> str:
    if text != "memory:" and not re.fullmatch(r"memcached://[^/:@\s]+:\d{1,5}", text):
        raise ValueError("a store is `memory:` or `memcached://host:port`")
    return text


def _jobs(text: str) -> str:
    if text.startswith("beanstalk:"):
        raise ValueError(
            "a beanstalkd can keep the jobs of tasks (`worker MODULE... --jobs`), and not those of"
            " the waiting room: it has no cap, no keys and no ledger; give a database"
        )
    return text


def _public_url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^/\s?#]+", text):
        raise ValueError("a public address is `https://host` or `https://host:port`, no path")
    return text


Seconds = Annotated[float, Field(gt=0, le=30 * 86_400)]
PasswordHash = Annotated[str, AfterValidator(_password_hash)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Text(_Table):
    """One text in both languages; where one is empty, the other is shown."""

    en: str = ""
    zh: str = ""


class Demo(_Table):
    """The simulated directory behind the adapter `demo`."""

    shortest_seconds: float = Field(default=2.0, ge=0, description="a call takes this at least")
    longest_seconds: float = Field(default=6.0, ge=0, description="and this at most")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.shortest_seconds > self.longest_seconds:
            raise ValueError("shortest_seconds must not be longer than longest_seconds")
        return self


class Line(_Table):
    """One line, from taking a number to the slots of its downstream."""

    title: Text = Field(
        default=Text(en="Account desk", zh="账号自助台"), description="what people call the line"
    )
    prefix: str = Field(
        default="A", pattern=r"^[A-Z]{1,2}$", description="letters before its numbers"
    )
    contact: Text = Field(default=Text(), description="whom to turn to when something went wrong")
    opens_at: str = Field(
        default="",
        pattern=r"^([01]\d:[0-5]\d|2[0-3]:[0-5]\d)?$",
        description="shown while the line is closed, as `08:30`",
    )
    names: Literal["number", "masked", "full"] = Field(
        default="masked",
        description="what others see of a name: `number` (nothing), `masked` or `full`",
    )

    places: int = Field(
        default=2, ge=1, le=1000, description="at the desk at once, when the line is new"
    )
    call_ahead: int = Field(default=1, ge=0, le=1000, description="called beyond the free places")
    max_waiting: int = Field(default=100_000, ge=1, le=250_000, description="then the line is full")
    answer_seconds: Seconds = Field(default=120, description="to answer when called")
    answer_extend_seconds: Seconds = Field(default=60, description="what `more time` adds to that")
    desk_lease_seconds: Seconds = Field(default=300, description="to fill in the form")
    desk_extend_seconds: Seconds = Field(default=300, description="what `more time` adds to that")
    extends: int = Field(default=10, ge=0, le=100, description="how often `more time` is granted")
    away_after_seconds: Seconds = Field(default=90, description="silent this long: shown as away")
    silent_aside_seconds: Seconds = Field(default=300, description="silent this long: set aside")
    aside_seconds: Seconds = Field(default=900, description="a number set aside is kept this long")
    undo_seconds: Seconds = Field(default=30, description="leaving can be undone this long")
    suspect_seconds: Seconds = Field(
        default=25, description="not heard for this long when called: the next is called as well"
    )
    call_patience_seconds: Seconds = Field(
        default=10, description="a call unanswered this long no longer keeps the next waiting"
    )
    freeze_seconds: Seconds | None = Field(
        default=None,
        description="nobody is called this long after a loss; unset: as long as a poll may take",
    )

    adapter: Literal["demo"] = Field(default="demo", description="how the downstream is spoken to")
    slots: int = Field(
        default=2, ge=1, le=1000, description="calls to the downstream at once, anywhere"
    )
    job_lease_seconds: Seconds = Field(
        default=30, description="a silent worker loses its job after this"
    )
    job_grace_seconds: Seconds = Field(
        default=5, description="and its slot is free this much later"
    )
    job_tries: int = Field(default=4, ge=1, le=100, description="attempts before a job is buried")
    job_backoff_seconds: Seconds = Field(
        default=600, description="longest pause before another attempt"
    )
    job_depth: int = Field(
        default=10_000, ge=1, description="jobs that may wait; then no more are taken"
    )
    job_keep_seconds: Seconds = Field(
        default=86_400, description="a finished job is kept this long"
    )
    demo: Demo = Field(default=Demo(), description="the simulated directory")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.away_after_seconds > self.silent_aside_seconds:
            raise ValueError("away_after_seconds must not be longer than silent_aside_seconds")
        return self


LineName = Annotated[str, AfterValidator(_line_name)]
OperatorName = Annotated[str, AfterValidator(_operator_name)]


class Settings(BaseSettings):
    """All of them. `Settings()` is a working line with nothing configured."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: str = Field(default="127.0.0.1", description="address to listen on; `0.0.0.0` for all")
    port: int = Field(
        default=8888, ge=0, le=65_535, description="port to listen on; 0 for any free one"
    )
    public_url: Annotated[str, AfterValidator(_public_url)] = Field(
        default="", description="what people type; `https://...` makes the cookies Secure"
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(),
        description="proxies whose X-Forwarded-For is believed; then listen privately",
    )
    allowed_hosts: frozenset[str] = Field(
        default=frozenset(), description="names answered to besides that of public_url"
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="web processes; more than 1 need memcached"
    )
    store: Annotated[str, AfterValidator(_store)] = Field(
        default="memory:",
        description="where the people's lines stand: `memory:`, `memcached://host:port`",
    )
    data_directory: Path = Field(
        default=Path("data"), description="checkpoints, jobs, secrets; on a disk"
    )
    jobs: Annotated[str, AfterValidator(_jobs)] = Field(
        default="",
        description="database of jobs and ledger; unset: now-serving.db in data_directory",
    )
    secret_file: Path | None = Field(
        default=None, description="keys that sign tickets; unset: `secret` in data_directory"
    )
    ticket_life_seconds: Annotated[int, Field(ge=60, le=30 * 86_400)] = Field(
        default=86_400, description="a ticket is good this long after it was last shown"
    )
    operators: dict[OperatorName, PasswordHash] = Field(
        default={},
        description="name and `hash-password`'s answer; none: a one-time password is printed",
    )
    session_seconds: Annotated[int, Field(ge=60, le=86_400)] = Field(
        default=1800, description="an operator is signed out after this long without a press"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="how much the log tells"
    )
    lines: dict[LineName, Line] = Field(default={"desk": Line()}, description="the lines, by name")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.lines:
            raise ValueError("lines: at least one line is needed")
        if self.processes > 1 and self.store == "memory:":
            raise ValueError(
                f"processes: {self.processes} processes cannot share a line kept in the memory"
                " of one; give store = `memcached://host:port` or processes = 1"
            )
        titles: dict[Text, str] = {}
        for name, line in self.lines.items():
            if (other := titles.setdefault(line.title, name)) != name:
                raise ValueError(f"lines.{name}.title is also the title of lines.{other}")
        return self

    @property
    def jobs_url(self) -> str:
        return self.jobs or f"sqlite:///{self.data_directory / 'now-serving.db'}"

    @property
    def secret_path(self) -> Path:
        return self.secret_file or self.data_directory / "secret"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The command line over the environment over the file.
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def read(config: Path | None, given: Mapping[str, Any]) -> Settings:
    """The settings of `config`, the environment and the command line (`given`), which wins.

    Without `config`, `now-serving.toml` in the current directory is read if it is there.
    Raises BadSettings with one sentence for each thing that is wrong.
    """
    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    if config is not None:
        _check_file(config)
    _check_variables(os.environ)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return FromFile(**given)
    except ValidationError as error:
        raise BadSettings("\n".join(_sentences(error))) from error
    except SettingsError as error:
        # Only a whole table in one variable gets here; its text stays out of the message.
        raise BadSettings(
            f"a {PREFIX}* variable that holds a table is not JSON: {error}"
        ) from error


def _check_file(config: Path) -> None:
    # pydantic-settings passes over a file that is not there.
    try:
        tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise BadSettings(f"{config} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadSettings(f"{config} is not TOML: {error}") from error


def _check_variables(environment: Mapping[str, str]) -> None:
    # pydantic-settings looks for the variables it knows and passes over the others.
    unknown = []
    for variable in environment:
        if not variable.upper().startswith(PREFIX):
            continue
        name, *inside = variable.upper().removeprefix(PREFIX).lower().split("__")
        field = Settings.model_fields.get(name)
        if field is None or (inside and name not in ("lines", "operators")):
            unknown.append(
                f"{variable} is not a setting" + _guess(name, Settings.model_fields, PREFIX)
            )
    if unknown:
        raise BadSettings("\n".join(unknown))


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        path = [str(part) for part in problem["loc"] if part != "[key]"]
        where = ".".join(path)
        if problem["type"] == "extra_forbidden":
            known = Line.model_fields if path[0] == "lines" else Settings.model_fields
            yield f"{where} is not a setting" + _guess(path[-1], known)
        else:
            said = problem["msg"].removeprefix("Value error, ")
            yield f"{where}: {said}" if where else said


def _guess(name: str, known: Mapping[str, object], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        return ""
    return f"; did you mean {prefix + near[0].upper() if prefix else near[0]}?"
