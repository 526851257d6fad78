"""Settings: what stands without a word, what wins over what, and what stops the start."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import settings
from settings import BadSettings, Line, Settings, read


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.upper().startswith("NOWSERVING_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(text: str) -> Path:
    path = Path("written.toml")
    path.write_text(text)
    return path


def refusal(text: str = "", **given: object) -> str:
    with pytest.raises(BadSettings) as caught:
        read(written(text), given)
    return str(caught.value)


def test_with_nothing_configured_there_is_one_working_line():
    found = read(None, {})
    assert list(found.lines) == ["desk"]
    assert found.store == "memory:"
    assert found.port == 8888
    assert found.jobs_url == "sqlite:///data/now-serving.db"
    assert found.secret_path == Path("data/secret")
    desk = found.lines["desk"]
    assert (desk.title.en, desk.title.zh, desk.prefix) == ("Account desk", "账号自助台", "A")
    assert (desk.places, desk.call_ahead, desk.slots, desk.extends) == (2, 1, 2, 10)
    assert (desk.answer_seconds, desk.answer_extend_seconds) == (120, 60)
    assert (desk.desk_lease_seconds, desk.aside_seconds, desk.undo_seconds) == (300, 900, 30)
    assert (desk.away_after_seconds, desk.silent_aside_seconds) == (90, 300)


def test_the_database_and_the_secret_follow_the_data_directory():
    found = read(None, {"data_directory": "/var/lib/now-serving"})
    assert found.jobs_url == "sqlite:////var/lib/now-serving/now-serving.db"
    assert found.secret_path == Path("/var/lib/now-serving/secret")


def test_the_command_line_wins_over_variables_and_they_over_the_file(monkeypatch):
    file = written("port = 1\nhost = '::1'\nlog_level = 'debug'\n[lines.desk]\nslots = 5")
    monkeypatch.setenv("NOWSERVING_PORT", "2")
    monkeypatch.setenv("NOWSERVING_LOG_LEVEL", "error")
    monkeypatch.setenv("NOWSERVING_LINES__DESK__PLACES", "7")
    found = read(file, {"port": 3})
    assert (found.port, found.log_level, found.host) == (3, "error", "::1")
    assert (found.lines["desk"].places, found.lines["desk"].slots) == (7, 5)


def test_a_file_in_the_current_directory_is_read_without_being_named():
    Path("now-serving.toml").write_text("port = 9999")
    assert read(None, {}).port == 9999


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError):
        read(None, {}).port = 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot = 1", "prot is not a setting; did you mean port?"),
        ("[lines.desk]\nplacs = 1", "lines.desk.placs is not a setting; did you mean places?"),
        ("[lines.desk.demo]\nx = 1", "lines.desk.demo.x is not a setting"),
        ("[lines.Desk]", "lines.Desk: a line's name is 1 to 32 small letters"),
        ("[lines.'a/b']", "lines.a/b: a line's name is"),
        ("[lines]", "at least one line is needed"),
        ("[lines.desk]\nplaces = 0", "lines.desk.places: "),
        ("[lines.desk]\nanswer_seconds = nan", "lines.desk.answer_seconds: "),
        ("[lines.desk]\nprefix = 'a1'", "lines.desk.prefix: "),
        ("[lines.desk]\naway_after_seconds = 301", "must not be longer than silent_aside_seconds"),
        ("[lines.a]\n[lines.b]", "lines.b.title is also the title of lines.a"),
        ("store = 'redis://x'", "a store is `memory:` or `memcached://host:port`"),
        ("public_url = 'desk.example.org'", "a public address is `https://host`"),
        ("port = 65536", "port: "),
        ("operators.anna = 'secret'", "operators.anna: not a hash made by"),
        ("port =", "written.toml is not TOML"),
        ("processes = 2", "2 processes cannot share a line kept in the memory of one"),
    ],
)
def test_a_bad_setting_is_named_in_a_sentence(text, sentence):
    said = refusal(text)
    assert sentence in said
    assert "pydantic" not in said


def test_every_bad_setting_is_named_at_once():
    assert refusal("prot = 1\nstore = 'x'").count("\n") == 1


def test_a_file_that_is_not_there_is_not_passed_over():
    with pytest.raises(BadSettings, match="missing.toml cannot be read"):
        read(Path("missing.toml"), {})


@pytest.mark.parametrize("name", ["NOWSERVING_PROT", "NOWSERVING_PORT__X", "nowserving_prot"])
def test_an_unknown_variable_stops_the_start(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(BadSettings, match=f"{name} is not a setting; did you mean NOWSERVING_PORT"):
        read(None, {})


def test_an_unknown_variable_inside_a_line_stops_the_start(monkeypatch):
    monkeypatch.setenv("NOWSERVING_LINES__DESK__PLACS", "1")
    with pytest.raises(BadSettings, match=r"lines\.desk\.placs is not a setting"):
        read(None, {})


def test_a_refusal_never_repeats_a_password(monkeypatch):
    monkeypatch.setenv("NOWSERVING_OPERATORS", '{"anna": "correct horse"')
    with pytest.raises(BadSettings) as caught:
        read(None, {})
    assert "horse" not in str(caught.value)
    assert "horse" not in refusal("operators.anna = 'correct horse'")


@pytest.mark.parametrize("model", [Settings, Line, settings.Demo])
def test_every_setting_has_a_default_and_says_what_it_is_for(model: type[BaseModel]):
    for name, field in model.model_fields.items():
        assert not field.is_required(), name
        assert field.description and len(field.description) <= 80, name
