"""Both languages say everything, and say it in their own punctuation."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_keywords, parse_mapping_cfg
from babel.messages.pofile import read_po

from downstream.demo import ACTIONS, MESSAGES
from handlers.languages import FOLDERS, Languages

ROOT = Path(__file__).parent.parent
TRANSLATIONS = ROOT / "translations"
OURS = ("handlers", "downstream", "templates")
HAN = "\u4e00-\u9fff\uff08-\uff1f\u3000-\u303f"

Key = str | tuple[str, ...]
Message = tuple[str, ...] | list[str] | str


def the_source() -> set[Key]:
    """What the templates and the code say, extracted as `babel.cfg` tells."""
    with (TRANSLATIONS / "babel.cfg").open() as text:
        methods, options = parse_mapping_cfg(text)
    # The line in babel.cfg that tells people how to extract is the one that is tested.
    asked = re.findall(r"-k (\S+)", (TRANSLATIONS / "babel.cfg").read_text())
    found = extract_from_dir(
        ROOT,
        method_map=methods,
        options_map=options,
        keywords={**DEFAULT_KEYWORDS, **parse_keywords(asked)},
        directory_filter=lambda path: Path(path).relative_to(ROOT).parts[0] in OURS,
    )
    return {key(message) for _, _, message, _, _ in found}


def key(message: Message) -> Key:
    return message if isinstance(message, str) else tuple(message)


def catalogue(path: Path) -> Catalog:
    return read_po(BytesIO(path.read_bytes()))


def keys(of: Catalog) -> set[Key]:
    return {key(message.id) for message in of if message.id}


def singular(key: Key) -> str:
    return key if isinstance(key, str) else key[0]


def texts(folder: str) -> Iterator[tuple[Key, list[str]]]:
    for message in catalogue(TRANSLATIONS / folder / "LC_MESSAGES" / "messages.po"):
        if message.id:
            said = message.string or ""
            yield key(message.id), [said] if isinstance(said, str) else list(said)


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages(TRANSLATIONS)


def test_the_template_of_the_catalogues_has_all_that_the_source_says():
    assert keys(catalogue(TRANSLATIONS / "messages.pot")) == the_source()


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_a_catalogue_has_exactly_what_the_source_says(folder):
    found = catalogue(TRANSLATIONS / folder / "LC_MESSAGES" / "messages.po")
    assert keys(found) == the_source()
    assert not found.obsolete


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_no_catalogue_holds_a_guess(folder):
    found = catalogue(TRANSLATIONS / folder / "LC_MESSAGES" / "messages.po")
    assert not [message.id for message in found if message.fuzzy and message.id]


def test_every_sentence_has_its_chinese():
    assert not [key for key, said in texts("zh_CN") if not all(said)]


def test_every_number_has_its_english_forms():
    assert not [key for key, said in texts("en") if isinstance(key, tuple) and not all(said)]


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_a_translation_fills_in_what_its_sentence_does(folder):
    placeholder = re.compile(r"%\(\w+\)s")
    for key, said in texts(folder):
        allowed = set(placeholder.findall(singular(key)))
        for text in filter(None, said):
            used = set(placeholder.findall(text))
            assert used <= allowed, key
            assert "%" not in placeholder.sub("", text), key
            # The number may go without saying in a singular, the rest may not.
            assert allowed - used <= {"%(num)s"}, key


def test_chinese_has_no_ascii_punctuation_between_its_characters():
    wrong = re.compile(rf"[{HAN}]\s*[,:?;!]|[,:?;!]\s*[{HAN}]")
    assert not [text for _, said in texts("zh_CN") for text in said if wrong.search(text)]


def test_no_text_is_markup():
    """`_()` in a template trusts its text as HTML, so a text with a tag in it would become one."""
    for folder in FOLDERS.values():
        for key, said in texts(folder):
            assert not [text for text in [singular(key), *said] if re.search(r"[<>&\"]", text)]


def test_all_that_a_service_says_is_in_the_catalogues():
    known = {singular(key) for key in the_source()}
    said = set(MESSAGES.values())
    for spec in ACTIONS.values():
        said |= {spec.title, spec.summary, *spec.ready, *spec.rules}
        said |= {each.label for each in spec.fields} | {each.label for each in spec.result}
        said |= {each.help for each in spec.fields if each.help}
    assert said <= known


def test_english_is_its_own_key(languages):
    assert languages.gettext("en")("The line is paused.") == "The line is paused."
    assert languages.ngettext("en")("%(num)s more person", "%(num)s more people", 1) == (
        "%(num)s more person"
    )
    assert languages.gettext("zh-Hans")("The line is paused.") == "排队已暂停。"


@pytest.mark.parametrize(
    ("accept_language", "cookie", "query", "expected"),
    [
        ("", None, None, "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", None, None, "zh-Hans"),
        ("zh-TW", None, None, "zh-Hans"),
        ("de-DE,de;q=0.9,en;q=0.5,zh;q=0.4", None, None, "en"),
        ("de-DE,zh;q=0.5,en;q=0.4", None, None, "zh-Hans"),
        ("en;q=0.1,zh;q=0", None, None, "en"),
        ("zh;q=0", None, None, "en"),
        ("zh;q=high,en;q=0.2", None, None, "en"),
        ("en", "zh-Hans", None, "zh-Hans"),
        ("en", "zh-Hans", "en", "en"),
        ("zh", "klingon", "../../etc", "zh-Hans"),
        (";;;,,=", "", "", "en"),
    ],
)
def test_a_language_is_as_asked_for_then_as_remembered_then_as_the_browser_wishes(
    languages, accept_language, cookie, query, expected
):
    assert languages.choose(accept_language, cookie, query) == expected


@pytest.mark.parametrize(
    ("lo", "hi", "english", "chinese"),
    [
        (0, 0, "under a minute", "不到 1 分钟"),
        (10, 59, "under a minute", "不到 1 分钟"),
        (20, 60, "1 min", "1 分钟"),
        (61, 119, "2 min", "2 分钟"),
        (0, 200, "1–4 min", "1–4 分钟"),
        (240, 360, "4–6 min", "4–6 分钟"),
    ],
)
def test_minutes_are_rounded_up(languages, lo, hi, english, chinese):
    assert languages.minutes("en", lo, hi) == english
    assert languages.minutes("zh-Hans", lo, hi) == chinese
