"""Sealed secrets: only the keyring opens them, and only for what they were sealed for."""

import json
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.sealed import Keyring, purpose
from queue_backend.errors import BadInput, Unsupported

INFO = purpose("7-1", "change-password")
SECRETS = {"password": "demo-pass-1", "new_password": "新密码-with-12"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "keyring.json"


@pytest.fixture
def keyring(path):
    return Keyring.at(path)


@pytest.fixture(scope="module")
def any_keyring(tmp_path_factory):
    return Keyring.at(tmp_path_factory.mktemp("keys") / "keyring.json")


def test_what_was_sealed_opens(keyring):
    assert keyring.open(keyring.seal(SECRETS, INFO), INFO) == SECRETS


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=5))
def test_any_text_survives(any_keyring, fields):
    try:
        for name, value in fields.items():
            (name + value).encode()
    except UnicodeEncodeError:
        return
    assert any_keyring.open(any_keyring.seal(fields, INFO), INFO) == fields


def test_a_sealed_text_shows_neither_its_content_nor_its_length(keyring):
    short, long = keyring.seal({"password": "x"}, INFO), keyring.seal(SECRETS, INFO)
    assert "demo-pass-1" not in long and len(short) == len(long)
    assert keyring.seal(SECRETS, INFO) != long


@pytest.mark.parametrize(
    "other", [purpose("7-2", "change-password"), purpose("7-1", "update-details"), ""]
)
def test_a_sealed_text_is_good_for_one_job_and_action_only(keyring, other):
    with pytest.raises(BadInput) as refused:
        keyring.open(keyring.seal(SECRETS, INFO), other)
    assert refused.value.code == "sealed-unreadable"


def test_purposes_cannot_be_mixed_up():
    assert purpose("a", "b-c") != purpose("a-b", "c")
    assert purpose('a","b', "c") != purpose("a", 'b","c')


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-4],
        lambda text: text[:-1],
        lambda text: "00000000" + text[8:],
        lambda text: text[:9] + "AAAA" + text[13:],
        lambda text: text.replace(".", ""),
        lambda text: text[:9],
        lambda text: "密" + text,
    ],
)
def test_a_spoilt_text_is_refused(keyring, spoil):
    with pytest.raises(BadInput):
        keyring.open(spoil(keyring.seal(SECRETS, INFO)), INFO)


def test_another_keyring_opens_nothing(keyring, tmp_path):
    other = Keyring.at(tmp_path / "other.json")
    with pytest.raises(BadInput):
        other.open(keyring.seal(SECRETS, INFO), INFO)


def test_the_file_is_made_once_private_and_read_again(path):
    sealed = Keyring.at(path).seal(SECRETS, INFO)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert Keyring.at(path).open(sealed, INFO) == SECRETS


def test_a_file_others_may_read_is_refused(keyring, path):
    path.chmod(0o640)
    with pytest.raises(Unsupported, match="chmod 600"):
        Keyring.at(path)


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": ["AAAA"]}', "[]"])
def test_a_file_that_is_no_keyring_is_refused_in_words(keyring, path, content):
    path.write_text(content)
    with pytest.raises(Unsupported, match="does not read as a keyring"):
        Keyring.at(path)


def test_a_new_key_seals_and_the_old_one_still_opens(keyring, path, tmp_path):
    old = keyring.seal(SECRETS, INFO)
    Keyring.at(tmp_path / "next.json")
    keys = [
        key
        for file in (path, tmp_path / "next.json")
        for key in json.loads(file.read_text())["keys"]
    ]
    path.write_text(json.dumps({"keys": keys}))
    both = Keyring.at(path)
    new = both.seal(SECRETS, INFO)
    assert new.split(".")[0] != old.split(".")[0]
    assert both.open(old, INFO) == both.open(new, INFO) == SECRETS


MAKE = """
import sys
from pathlib import Path
from downstream.sealed import Keyring
print(Keyring.at(Path(sys.argv[1])).seal({}, "").split(".")[0])
"""


def test_processes_that_start_together_have_one_keyring(path):
    processes = [
        subprocess.Popen([sys.executable, "-c", MAKE, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in processes}) == 1
    assert [process.returncode for process in processes] == [0] * 4
