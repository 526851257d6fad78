"""Every page renders in every state and both languages, and is the HTML it should be."""

import gzip
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from downstream.demo import MESSAGES
from handlers.languages import FOLDERS, Languages
from tests.page_cases import pages

ROOT = Path(__file__).parent.parent
LANGUAGES = Languages(ROOT / "translations")
VOID = {"meta", "link", "input", "circle", "path", "br"}
HAN = "\u4e00-\u9fff"

CASES = [(lang, *case) for lang in FOLDERS for case in pages(LANGUAGES, lang)]


class Parsed(HTMLParser):
    """The elements of a page, and its text as people see it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []  # but those of a <template>
        self.inside: list[tuple[str, dict[str, str]]] = []
        self.text: list[tuple[str, str]] = []  # (language, text)
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, {name: value or "" for name, value in attrs})
        if tag == "input" and any(opened == "label" for opened, _ in self.inside):
            element[1]["in-label"] = "1"
        if not any(opened == "template" for opened, _ in self.inside):
            self.elements.append(element)
        if tag not in VOID:
            self.inside.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self.inside.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        if not any(tag == "script" for tag, _ in self.inside):
            lang = next((a["lang"] for _, a in reversed(self.inside) if "lang" in a), "")
            self.text.append((lang, data))

    def all(self, tag: str, **attributes: str) -> Iterator[dict[str, str]]:
        for name, found in self.elements:
            if name == tag and attributes.items() <= found.items():
                yield found


@pytest.fixture(params=CASES, ids=lambda case: f"{case[1]}-{case[0]}")
def case(request):
    """(language, name, context, html) of one page in one state."""
    lang, name, template, context = request.param
    return lang, name, context, LANGUAGES.environment(lang).get_template(template).render(context)


def of(name: str, lang: str = "en", **changes: object) -> str:
    for found_lang, found, template, context in CASES:
        if (found_lang, found) == (lang, name):
            page = LANGUAGES.environment(lang).get_template(template)
            return page.render(context | changes)
    raise LookupError(name)


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", "".join(text for _, text in Parsed(html).text))


def test_a_page_is_well_formed_and_says_its_language(case):
    lang, _, _, html = case
    parsed = Parsed(html)
    assert not parsed.inside
    assert next(parsed.all("html"))["lang"] == lang
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), [each for each in ids if ids.count(each) > 1]
    title = re.search(r"<title>(.*?)</title>", html, re.S)
    assert title and title[1] == title[1].strip() != ""


def test_the_strict_content_policy_holds(case):
    _, _, _, html = case
    parsed = Parsed(html)
    for _, attributes in parsed.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    for script in parsed.all("script"):
        assert script.get("src", "").startswith("/static/") or script["type"] == "application/json"
    assert not list(parsed.all("style"))


def test_every_field_has_a_label_and_every_reference_leads_somewhere(case):
    _, _, _, html = case
    parsed = Parsed(html)
    ids = {attributes.get("id") for _, attributes in parsed.elements}
    labels = {each.get("for") for each in parsed.all("label")}
    for field in [*parsed.all("input"), *parsed.all("textarea")]:
        if field.get("type") != "hidden" and "in-label" not in field:
            assert field.get("id") in labels, field
    for _, attributes in parsed.elements:
        for name in ("aria-labelledby", "aria-describedby", "aria-controls", "popovertarget"):
            assert set(attributes.get(name, "").split()) <= ids, attributes[name]
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    for button in parsed.all("button"):
        assert button.get("type", "submit") in ("submit", "button")


def test_a_page_has_one_main_and_one_first_heading(case):
    _, _, _, html = case
    parsed = Parsed(html)
    assert [each["id"] for each in parsed.all("main")] == ["main"]
    assert len(list(parsed.all("h1"))) == 1


def test_what_posts_goes_to_an_address_of_ours(case):
    _, _, _, html = case
    for form in Parsed(html).all("form"):
        if form.get("method") != "dialog":
            assert re.match(r"/(lines|admin)/", form["action"]), form


def test_chinese_pages_have_chinese_punctuation_and_no_english_sentences(case):
    lang, name, context, html = case
    if lang != "zh-Hans" or name.startswith("wall"):
        return
    wrong = re.compile(rf"[{HAN}]\s*[,:?;!](?!\d)|[,:?;!]\s*[{HAN}]")
    sentence = re.compile(r"\b[A-Za-z’]+ [a-z’]+ [a-z’]+\b")
    for spoken, text in Parsed(html).text:
        if spoken == "zh-Hans":
            assert not wrong.search(text), text
            if not name.startswith("admin"):  # names, services and reasons are as written
                assert not sentence.search(text), text


def test_pages_are_small(case):
    _, name, _, html = case
    budget = 12 if name.startswith("admin") else 5
    assert len(gzip.compress(html.encode(), 6)) <= budget * 1024


@pytest.mark.parametrize(
    ("file", "kilobytes"),
    [
        ("style.css", 6),
        ("admin.css", 2),
        ("queue.js", 7),
        ("admin.js", 10),
        ("wall.js", 4),
        ("tell.js", 2),
    ],
)
def test_static_files_are_small(file, kilobytes):
    assert len(gzip.compress((ROOT / "static" / file).read_bytes(), 6)) <= kilobytes * 1024


def test_scripts_leave_the_wording_to_the_page():
    for script in (ROOT / "static").glob("*.js"):
        source = script.read_text()
        assert source.startswith("// @ts-check\n")
        assert "innerHTML" not in source
        code = re.sub(r"/\*.*?\*/|^\s*//.*?$|\s// .*?$", "", source, flags=re.S | re.M)
        said = re.findall(r"[\"'`][A-Z][a-z]+ [a-z]+ [^\"'`]*[\"'`]", code)
        assert not said, f"{script.name} says {said}"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("none", "Account desk"),
        ("none-wrong", "Error: Account desk"),
        ("waiting-many", "12 ahead · A-042 · Account desk"),
        ("waiting-next", "Next · A-042 · Account desk"),
        ("waiting-paused", "Paused · A-042 · Account desk"),
        ("called", "(!) Your turn · A-042 · Account desk"),
        ("ready", "Confirmed · A-042 · Account desk"),
        ("aside", "Set aside · A-042 · Account desk"),
        ("expired", "Number expired · Account desk"),
        ("left", "You left · Account desk"),
        ("removed", "Removed · Account desk"),
        ("closed", "Closed · Account desk"),
        ("full", "Full · Account desk"),
    ],
)
def test_the_title_begins_with_the_state(name, title):
    assert f"<title>{title}</title>" in of(f"queue-{name}")


@pytest.mark.parametrize(
    ("name", "state", "english", "chinese"),
    [
        ("none", "none", "8 people are waiting.", "目前有 8 人等候"),
        ("none-empty", "none", "You can start right away.", "可以立即办理"),
        ("lost", "lost", "This number is too old.", "这个号码已经过期"),
        ("closed", "closed", "It opens at 08:30.", "08:30 开始"),
        ("draining", "draining", "No new numbers today.", "今天不再发号"),
        ("full", "full", "Try again in about 10 min.", "请约 10 分钟后再试"),
        ("waiting-many", "waiting", "12 people are ahead of you.", "前面还有 12 人"),
        ("waiting", "waiting", "Almost your turn.", "快到您了"),
        ("waiting-one", "waiting", "1 person is ahead of you.", "前面还有 1 人"),
        ("waiting-next", "waiting", "You are next.", "下一位就是您"),
        ("waiting-unmeasured", "waiting", "still measuring", "正在估算"),
        ("waiting-grew", "waiting", "The wait has grown to 9–12 min.", "等待时间延长到 9–12 分钟"),
        ("waiting-paused", "waiting", "You need not do anything.", "无需任何操作"),
        ("waiting-frozen", "waiting", "being put back in order", "正在恢复排队次序"),
        ("waiting-moved", "waiting", "from 3 to 5. Reason: An urgent case", "由第 3 变为第 5"),
        ("called", "called", "It’s your turn", "到您了"),
        ("called-extended", "called", "You can ask 9 more times.", "还可以再延长 9 次"),
        ("ready", "ready", "A place is free in about 0:40.", "约 0:40 后轮到您"),
        ("aside", "aside", "Your number is kept until 11:08.", "号码保留到 11:08"),
        ("expired", "expired", "Your number A-042 has expired.", "号码 A-042 已失效"),
        ("left", "left", "You left the line.", "您已退出排队"),
        ("removed", "removed", "Reason: “Taken twice”", "原因： “重复取号”"),
        ("void", "closed", "The desk closed before your turn.", "您的号码作废"),
        ("cookies-off", "none", "Allow cookies for this site", "请允许本站 Cookie"),
    ],
)
def test_a_state_is_on_the_page_and_in_words(name, state, english, chinese):
    assert f'data-state="{state}"' in of(f"queue-{name}")
    quoted = {lang: plain(of(f"queue-{name}", lang)) for lang in FOLDERS}
    # The quotation marks of <q> are drawn by the style sheet.
    assert re.sub("[“”]", "", english) in quoted["en"]
    assert re.sub("[“”]", "", chinese) in quoted["zh-Hans"]


def test_who_is_last_is_not_told_so():
    """Pages.md: people who can see that they are last leave more than four times as often."""
    assert "behind you" not in plain(of("queue-waiting-last"))
    assert "go first" not in plain(of("queue-waiting-last"))


def test_an_ended_page_does_not_reload_and_says_whether_anything_changed():
    for name in ("expired", "left", "removed", "void"):
        html = of(f"queue-{name}")
        assert "http-equiv" not in html
        assert "Nothing was changed in your account." in plain(html)


def test_the_reload_without_a_script_can_be_stopped_and_never_takes_a_form_away():
    assert 'http-equiv="refresh" content="20"' in of("queue-waiting")
    assert "http-equiv" not in of("queue-waiting-still")
    assert "http-equiv" not in of("queue-none")
    assert "http-equiv" not in of("desk-change-password")
    assert "http-equiv" in of("job-running")
    assert "http-equiv" not in of("job-done")


def test_a_form_with_faults_leads_to_each_of_them():
    html = of("desk-wrong")
    parsed = Parsed(html)
    assert "<title>Error: " in html
    for name in ("password", "new_password_again"):
        field = next(parsed.all("input", name=name))
        assert field["aria-invalid"] == "true"
        assert f"e-{name}" in field["aria-describedby"].split()
        assert list(parsed.all("a", href=f"#f-{name}"))
    assert next(parsed.all("input", name="account"))["value"] == "knolan"


def test_no_page_repeats_a_password():
    typed = {"account": "knolan", "password": "canary", "new_password": "canary"}
    assert "canary" not in of("desk-change-password", values=typed)


def test_rules_stand_before_the_field_and_are_linked_to_it():
    html = of("desk-change-password")
    field = next(Parsed(html).all("input", name="new_password"))
    assert "r-new_password" in field["aria-describedby"].split()
    assert html.index('id="r-new_password"') < html.index('id="f-new_password"')
    assert field["autocomplete"] == "new-password"


def test_what_a_person_typed_is_never_markup():
    nasty = "<script>alert(1)</script>\"'&"
    form = {"name": nasty, "service": nasty, "errors": {"name": nasty}}
    assert "<script>alert" not in of("queue-none", form=form)
    values = {"account": nasty}
    assert "<script>alert" not in of("desk-look-up-phone", values=values)


@pytest.mark.parametrize("lang", FOLDERS)
def test_the_wall_speaks_both_languages_and_knows_no_name(lang):
    text = plain(of("wall-busy", lang))
    assert "Please answer" in text and "请确认" in text
    assert "A-040" in text and "张" not in text


def test_the_operators_buttons_say_which_ticket_and_which_state_they_saw():
    parsed = Parsed(of("admin-busy"))
    one = "/admin/lines/desk/tickets/42"
    assert list(parsed.all("form", method="post", action=f"{one}/move"))
    assert list(parsed.all("input", name="seen", value="waiting"))
    assert list(parsed.all("button", formaction=f"{one}/call"))
    up = next(parsed.all("button", **{"aria-label": "Move A-042 up"}))
    assert (up["name"], up["value"]) == ("position", "1")
    kick = "/admin/lines/desk/jobs/11/kick"
    assert list(parsed.all("form", method="post", action=kick))
    assert list(parsed.all("input", name="seen", value="buried"))
    assert not list(parsed.all("form", action=kick.replace("11", "17"))), "it is running"


def test_what_needs_words_is_asked_for_by_a_link_and_filled_in_without_a_script():
    link = next(Parsed(of("admin-busy")).all("a", **{"aria-label": "More for A-042"}))
    assert link["href"] == "/admin/lines/desk?ticket=42#more"
    parsed = Parsed(of("admin-asked"))
    for verb in ("move", "aside", "remove"):
        one = f"/admin/lines/desk/tickets/42/{verb}"
        assert "hidden" not in next(parsed.all("button", formaction=one))
    assert list(parsed.all("button", formaction="/admin/lines/desk/jobs/17/cancel"))
    for asked in ("more", "job"):
        assert "popover" not in next(parsed.all("div", id=asked, role="region"))
        assert list(Parsed(of("admin-busy")).all("div", id=asked, role="dialog"))


def test_a_request_says_its_error_and_where_it_runs():
    text = plain(of("admin-busy"))
    assert "attempt 1 · win-01-4711-9c3e/1" in text
    assert MESSAGES["lease-lapsed"] in text
    assert "directory-busy" in text
    for state in ("Busy", "Slow", "Idle", "Not heard of"):
        assert state in text
    assert "certificate-expired" in plain(of("admin-stopped"))
