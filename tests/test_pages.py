"""The pages over plain HTTP, as a browser without scripts sees them: forms, redirects, words."""

import re
from html.parser import HTMLParser

import pytest
import pytest_asyncio

from handlers.base import local_path
from tests.front import a_room, is_chinese

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
QUEUE = "/lines/desk"
DESK = "/lines/desk/desk"


@pytest_asyncio.fixture
async def room(tmp_path, clock):
    async with a_room(tmp_path, clock) as room:
        yield room


def state(page) -> str:
    found = re.search(r'<main[^>]* data-state="([a-z-]+)"', page.text)
    assert found, page.text[:500]
    return found[1]


class Forms(HTMLParser):
    """The forms of a page: their addresses, and the hidden fields that go along."""

    def __init__(self, page) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self._action = ""
        self.feed(page.text)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        if tag == "form":
            self._action = said.get("action") or ""
            assert said.get("method") in ("post", "get", "dialog")
            self.found.setdefault(self._action, {})
        elif tag == "input" and said.get("type") == "hidden":
            self.found[self._action][said["name"] or ""] = said.get("value") or ""


async def take(visitor, **said):
    page = await visitor.get(QUEUE)
    hidden = Forms(page).found["/lines/desk/take"]
    return await visitor.post(
        "/lines/desk/take", {"name": "Karen Nolan", "service": "look-up-phone", **hidden, **said}
    )


async def press(visitor, action: str, **fields: str):
    """Presses a button that the queue page or the desk really has."""
    page = await visitor.get(QUEUE)
    if page.status == 303:
        page = await visitor.get(page.leads_to)
    assert action in Forms(page).found, Forms(page).found
    answer = await visitor.post(action, Forms(page).found[action] | fields)
    assert answer.status == 303, answer.text
    return answer


async def test_a_whole_visit_with_forms_alone(room):
    visitor = room.browser()
    assert (await visitor.get("/")).leads_to == QUEUE
    assert state(await visitor.get(QUEUE)) == "none"
    assert (await take(visitor)).status == 303
    assert state(await visitor.get(QUEUE)) == "waiting"
    await room.pass_time(2)
    page = await visitor.get(QUEUE)
    assert state(page) == "called"
    assert "A-001" in page.text
    await press(visitor, "/lines/desk/extend")
    await press(visitor, "/lines/desk/confirm")
    assert (await visitor.get(QUEUE)).leads_to == DESK
    form = await visitor.get(DESK)
    assert state(form) == "serving"
    await press(visitor, "/lines/desk/desk/extend")
    sent = await press(visitor, DESK, account="knolan")
    assert sent.leads_to == DESK
    progress = await visitor.get(DESK)
    assert state(progress) == "job"
    assert '<meta http-equiv="refresh" content="20">' in progress.text
    await room.work()
    result = await visitor.get(DESK)
    assert state(result) == "done"
    assert "Karen Nolan" in result.text
    # The result stays at its address, and another number is one press away.
    assert (await visitor.get(QUEUE)).leads_to == DESK
    assert state(await visitor.get(f"{QUEUE}?again=1")) == "none"
    again = await visitor.get(f"{QUEUE}?again=1")
    hidden = Forms(again).found["/lines/desk/take"]
    await visitor.post("/lines/desk/take", {"name": "K", "service": "unlock", **hidden})
    assert (await visitor.ticket())["no"] == "A-002"


async def test_the_form_is_not_shown_before_ones_turn(room):
    visitor = room.browser()
    assert (await visitor.get(DESK)).leads_to == QUEUE
    await take(visitor)
    page = await visitor.get(DESK)
    assert (page.status, page.leads_to) == (303, QUEUE)
    assert "account" not in page.text


async def test_before_the_press_one_sees_how_many_wait(room):
    for _ in range(3):
        await room.browser().take()
    page = await room.browser().get(QUEUE)
    assert ">3 people are waiting.<" in page.text


async def test_reloading_keeps_the_number_and_a_second_press_does_not_make_another(room):
    visitor = room.browser()
    first = await visitor.get(QUEUE)
    said = {"name": "Li", "service": "unlock", **Forms(first).found["/lines/desk/take"]}
    await visitor.post("/lines/desk/take", said)
    visitor_without_cookie = room.browser()
    await visitor_without_cookie.post("/lines/desk/take", said)
    assert room.line.public().waiting == 1
    for _ in range(3):
        assert "A-001" in (await visitor.get(QUEUE)).text


async def test_leaving_can_be_undone_and_then_not_any_more(room):
    visitor = room.browser()
    await take(visitor)
    await press(visitor, "/lines/desk/leave")
    assert state(await visitor.get(QUEUE)) == "left"
    await press(visitor, "/lines/desk/undo")
    assert state(await visitor.get(QUEUE)) == "waiting"
    await press(visitor, "/lines/desk/leave")
    await room.pass_time(31)
    page = await visitor.get(QUEUE)
    assert state(page) == "left"
    assert "/lines/desk/undo" not in Forms(page).found
    assert (await visitor.post("/lines/desk/undo")).status == 409


async def test_who_was_set_aside_presses_once_and_is_next(room):
    visitor = room.browser()
    await take(visitor)
    await room.pass_time(124)
    assert state(await visitor.get(QUEUE)) == "aside"
    await press(visitor, "/lines/desk/return")
    assert state(await visitor.get(QUEUE)) == "waiting"


async def test_the_removed_read_why(room):
    operator = await room.operator()
    visitor = room.browser("zh-Hans")
    await take(visitor)
    said = {"reason_en": "Twice in line", "reason_zh": "重复取号"}
    await operator.post("/admin/lines/desk/tickets/1/remove", said)
    page = await visitor.get(QUEUE)
    assert state(page) == "removed"
    assert "重复取号" in page.text


async def test_a_pause_is_shown_with_its_reason_and_keeps_the_place(room):
    operator = await room.operator()
    visitor = room.browser()
    await take(visitor)
    await operator.post("/admin/lines/desk/pause", reason_en="Back at noon")
    page = await visitor.get(QUEUE)
    assert 'data-line="paused"' in page.text
    assert "Back at noon" in page.text
    await operator.post("/admin/lines/desk/resume")
    await room.pass_time(2)
    assert state(await visitor.get(QUEUE)) == "called"


async def test_a_closed_line_says_so_with_and_without_a_number(room):
    operator = await room.operator()
    holder, newcomer = room.browser(), room.browser()
    await take(holder)
    await operator.post("/admin/lines/desk/close", reason_en="Fire drill")
    for visitor in (holder, newcomer):
        page = await visitor.get(QUEUE)
        assert state(page) == "closed"
        assert "Fire drill" in page.text
    assert "A-001" in (await holder.get(QUEUE)).text


async def test_whoever_an_operator_finished_sees_that_the_visit_is_over(room):
    operator = await room.operator()
    visitor = room.browser()
    await visitor.reach_the_desk()
    await operator.post("/admin/lines/desk/tickets/1/finish")
    page = await visitor.get(DESK)
    assert page.leads_to == QUEUE
    assert state(await visitor.get(QUEUE)) == "done"


async def test_a_browser_without_cookies_is_told_to_allow_them(room):
    visitor = room.browser()
    answer = await take(visitor)
    visitor.cookies.clear()
    page = await visitor.get(answer.leads_to)
    assert "Allow cookies for this site" in page.text


async def test_wrong_input_keeps_everything_but_passwords(room):
    visitor = room.browser()
    await visitor.reach_the_desk("change-password")
    page = await visitor.post(
        DESK,
        account="kno lan",
        password="demo-pass-1",
        new_password="a-Canary-9000",
        new_password_again="a-Canary-9001",
    )
    assert page.status == 400
    assert state(page) == "serving"
    assert 'value="kno lan"' in page.text
    for secret in ("demo-pass-1", "a-Canary-9000", "a-Canary-9001"):
        assert secret not in page.text
    assert page.text.count('aria-invalid="true"') == 2
    assert re.search(r"<title>\s*Error:", page.text)
    assert (await room.jobs.stats()).ready == 0


async def test_a_refused_request_says_why_and_offers_to_try_again(room):
    visitor = room.browser()
    await visitor.reach_the_desk()
    await press(visitor, DESK, account="nobody-by-that-name")
    await room.work()
    page = await visitor.get(DESK)
    assert state(page) == "failed"
    await press(visitor, "/lines/desk/desk/retry")
    assert state(await visitor.get(DESK)) == "serving"
    await press(visitor, DESK, account="knolan")
    await room.work()
    assert state(await visitor.get(DESK)) == "done"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("lease-lapsed", "It was begun more than once and never ended."),
        ("directory-busy", "It did not work, also when it was tried again."),
    ],
)
async def test_whose_request_was_buried_reads_why_and_no_promise(room, error, sentence):
    visitor = room.browser()
    await visitor.reach_the_desk()
    await press(visitor, DESK, account="knolan")
    await room.jobs.bury(await room.jobs.reserve("elsewhere"), error)
    page = await visitor.get(DESK)
    assert state(page) == "failed"
    assert sentence in page.text
    assert "Nothing was changed" not in page.text
    assert "/lines/desk/desk/retry" not in Forms(page).found


async def test_the_wall_shows_numbers_and_no_names_to_anybody(room):
    for name in ("Karen Nolan", "张伟", "Ann", "Bea", "Cem"):
        await room.browser().take(name)
    await room.pass_time(2)
    page = await room.browser().get("/lines/desk/wall")
    for number in ("A-001", "A-002", "A-003", "A-004", "A-005"):
        assert number in page.text
    assert "K***n" not in page.text and "张*" not in page.text
    assert is_chinese(page.text) and "Account desk" in page.text
    assert "Set-Cookie" not in page.headers


# Languages


async def test_the_first_visit_follows_the_browser_and_a_choice_is_remembered(room):
    visitor = room.browser("zh-CN,zh;q=0.9")
    assert '<html lang="zh-Hans"' in (await visitor.get(QUEUE)).text
    assert '<html lang="en"' in (await visitor.get(f"{QUEUE}?lang=en")).text
    assert '<html lang="en"' in (await visitor.get(QUEUE)).text
    answer = await visitor.post("/language", lang="zh-Hans", back=QUEUE)
    assert (answer.status, answer.leads_to) == (303, QUEUE)
    assert '<html lang="zh-Hans"' in (await visitor.get(QUEUE)).text
    assert (await visitor.post("/language", lang="tlh")).status == 400


async def test_the_switch_leads_to_the_same_page_in_the_other_language(room):
    visitor = room.browser()
    await take(visitor)
    page = await visitor.get(QUEUE)
    assert 'href="/lines/desk?lang=zh-Hans"' in page.text
    # After a refused form the page stands at an address that cannot be asked for.
    page = await visitor.post("/lines/desk/confirm")
    assert 'href="/lines/desk?lang=zh-Hans"' in page.text


async def test_who_reads_no_more_reloading_can_stop_it(room):
    visitor = room.browser()
    await take(visitor)
    refresh = '<noscript><meta http-equiv="refresh" content="20"></noscript>'
    assert refresh in (await visitor.get(QUEUE)).text
    assert refresh not in (await visitor.get(f"{QUEUE}?still=1")).text


# Headers


@pytest.mark.parametrize(
    "path",
    ["/", QUEUE, DESK, "/lines/desk/wall", "/admin", "/admin/sign-in", "/nowhere", "/lines/x"],
)
async def test_every_page_has_the_headers_that_keep_it_safe(room, path):
    headers = (await room.browser().get(path)).headers
    assert headers["Content-Security-Policy"] == CSP
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    for part in ("camera=()", "microphone=()", "geolocation=()", "payment=()"):
        assert part in headers["Permissions-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Robots-Tag"] == "noindex"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Vary"] == "Accept-Language, Cookie"
    assert "Server" not in headers
    assert "Strict-Transport-Security" not in headers


async def test_no_page_has_a_script_or_a_style_of_its_own(room):
    visitor = room.browser()
    await take(visitor)
    for path in (QUEUE, "/lines/desk/wall", "/admin/sign-in"):
        page = (await visitor.get(path)).text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
        for attributes in re.findall(r"<script([^>]*)>", page):
            assert "src=" in attributes or 'type="application/json"' in attributes


async def test_static_files_are_for_ever_under_their_hash_and_not_without(room):
    page = (await room.browser().get(QUEUE)).text
    address = re.search(r'href="(/static/style\.css\?v=[0-9a-f]+)"', page)
    assert address
    hashed = await room.browser().get(address[1])
    assert hashed.status == 200
    assert hashed.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert hashed.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in hashed.headers
    for other in ("/static/style.css", "/static/style.css?v=0000"):
        assert (await room.browser().get(other)).headers["Cache-Control"] == "no-cache"
    again = await room.browser().get(address[1], **{"If-None-Match": hashed.headers["Etag"]})
    assert again.status == 304


async def test_head_is_answered_like_get_without_the_page(room):
    answer = await room.browser().ask("HEAD", QUEUE)
    assert (answer.status, answer.text) == (200, "")


async def test_what_a_problem_document_points_to_can_be_read(room):
    page = await room.browser().get("/problems/line-full")
    assert page.status == 200
    assert "The line is full." in page.text
    assert (await room.browser().get("/problems/no-such-thing")).status == 404


async def test_with_several_lines_one_chooses(tmp_path, clock):
    async with a_room(tmp_path, clock) as first:
        parts = first.parts
        second = type(parts.desks["desk"])("it", "IT <help>", "信息技术")
        lines = {"desk": first.line, "it": first.line}
        (tmp_path / "more").mkdir()
        async with a_room(
            tmp_path / "more", clock, desks={**parts.desks, "it": second}, lines=lines
        ) as room:
            page = await room.browser().get("/")
            assert page.status == 200
            assert "Account desk" in page.text


def test_a_path_of_ours_is_local_and_nothing_else_is():
    for path in ("/", "/lines/desk", "/lines/desk?still=1#main", "/admin/lines/desk"):
        assert local_path(path, "/else") == path
    for path in ("", "lines", "//x", "/\\x", "http://x", "/a\\b", "/a b", "/a\nb", "/ä", "\t/x"):
        assert local_path(path, "/else") == "/else"
