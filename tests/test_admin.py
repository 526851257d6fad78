"""The operators' side over HTTP: the door, the live line, and each verb behind its button."""

import pytest
import pytest_asyncio

from tests.front import PASSWORD, a_room

ADMIN = "/admin/lines/desk"
API = "/api/admin/lines/desk"


@pytest_asyncio.fixture
async def room(tmp_path, clock):
    async with a_room(tmp_path, clock) as room:
        yield room


@pytest_asyncio.fixture
async def operator(room):
    return await room.operator()


async def visitors(room, count: int):
    found = []
    for number in range(1, count + 1):
        visitor = room.browser()
        await visitor.take(f"Visitor {number}")
        found.append(visitor)
    return found


# The door


async def test_without_a_session_every_address_of_the_operators_is_shut(room):
    stranger = room.browser()
    await stranger.take()
    for answer in (
        await stranger.get(API),
        await stranger.send(f"{API}/close"),
        await stranger.send(f"{API}/tickets/1/remove"),
    ):
        assert (answer.status, answer.json["code"]) == (401, "session-missing")
    for answer in (
        await stranger.get("/admin"),
        await stranger.get(ADMIN),
        await stranger.post(f"{ADMIN}/close"),
        await stranger.post(f"{ADMIN}/tickets/1/remove"),
    ):
        assert answer.status == 303
        assert answer.leads_to.startswith("/admin/sign-in?back=%2Fadmin")
    assert (await stranger.ticket())["state"] == "waiting"
    assert room.line.public().state == "open"


async def test_signing_in_leads_back_to_where_one_wanted_to_go(room):
    operator = room.browser()
    page = await operator.get(ADMIN)
    assert (await operator.get(page.leads_to)).status == 200
    said = {"name": "anna", "password": PASSWORD, "back": ADMIN}
    answer = await operator.post("/admin/sign-in", said)
    assert (answer.status, answer.leads_to) == (303, ADMIN)
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert (await operator.get("/admin")).leads_to == ADMIN
    assert (await operator.get(ADMIN)).status == 200
    for back in ("https://evil.example", "//evil.example"):
        elsewhere = await operator.post("/admin/sign-in", said | {"back": back})
        assert elsewhere.leads_to == "/admin"


async def test_a_wrong_name_and_a_wrong_password_are_told_alike(room):
    stranger = room.browser()
    wrong_password = await stranger.post("/admin/sign-in", name="anna", password="guess")
    wrong_name = await stranger.post("/admin/sign-in", name="nobody", password=PASSWORD)
    for answer in (wrong_password, wrong_name):
        assert answer.status == 401
        assert "The name or the password is not right." in answer.text
    assert "operator" not in stranger.cookies
    assert "guess" not in wrong_password.text


@pytest.mark.parametrize("lang", ["en", "zh-Hans"])
async def test_after_five_wrong_tries_one_waits_and_reads_how_long(room, clock, lang):
    stranger = room.browser(lang)
    wrong = {"name": "anna", "password": "guess"}
    for _ in range(5):
        assert (await stranger.post("/admin/sign-in", wrong)).status == 401
    slow = await stranger.post("/admin/sign-in", {"name": "anna", "password": PASSWORD})
    assert slow.status == 429
    assert slow.headers["Retry-After"] == "30"
    assert "30" in slow.text.partition("<main")[2]
    clock.tick(31)
    assert (await stranger.post("/admin/sign-in", wrong)).status == 401
    slower = await stranger.post("/admin/sign-in", wrong)
    assert slower.headers["Retry-After"] == "60"
    clock.tick(61)
    right = await stranger.post("/admin/sign-in", {"name": "anna", "password": PASSWORD})
    assert right.status == 303


async def test_a_name_that_nobody_has_costs_the_same_work(room, monkeypatch):
    checked = []
    monkeypatch.setattr(
        "handlers.door.PasswordHasher.verify", lambda self, hash_, password: checked.append(hash_)
    )
    answer = await room.browser().post("/admin/sign-in", name="nobody", password=PASSWORD)
    assert answer.status == 401
    assert checked == [room.parts.operators["anna"]]


async def test_a_session_ends_by_itself_unless_something_is_pressed(room, operator, clock):
    clock.tick(1500)
    assert (await operator.get(ADMIN)).status == 200  # a press: half an hour again
    clock.tick(1500)
    told = await operator.get(API)
    assert told.json["session"]["left_in"] == 300  # polling is no press
    clock.tick(299)
    assert (await operator.get(API)).status == 200
    clock.tick(1)
    assert (await operator.get(API)).status == 401
    assert (await operator.get(ADMIN)).status == 303


async def test_signing_out_ends_the_session_also_for_a_copy_of_it(room, operator):
    copy = room.browser()
    copy.cookies |= operator.cookies
    answer = await operator.post("/admin/sign-out")
    assert (answer.status, answer.leads_to) == (303, "/admin/sign-in")
    assert "operator" not in operator.cookies
    assert (await copy.get(API)).status == 401
    assert (await operator.get(ADMIN)).headers["Cache-Control"] == "no-store"


async def test_a_forged_session_is_none(room, operator):
    cookie = operator.cookies["operator"]
    for forged in (cookie[:-1] + "0", cookie[: len(cookie) // 2], "x", "2|1:0|"):
        stranger = room.browser()
        stranger.cookies["operator"] = forged
        expected = 200 if forged == cookie else 401
        assert (await stranger.get(API)).status == expected
    # A person's ticket is signed as well, but for something else.
    visitor = room.browser()
    await visitor.take()
    visitor.cookies["operator"] = visitor.cookies["ticket_desk"]
    assert (await visitor.get(API)).status == 401


async def test_an_operator_who_was_struck_off_has_no_session(tmp_path, clock, room, operator):
    (tmp_path / "later").mkdir()
    hashes = {"bert": room.parts.operators["anna"]}
    async with a_room(tmp_path / "later", clock, operators=hashes) as later:
        stranger = later.browser()
        stranger.cookies |= operator.cookies
        assert (await stranger.get(API)).status == 401


async def test_another_site_cannot_press_an_operators_button(room, operator):
    answer = await operator.send(f"{API}/close", Origin="https://evil.example")
    assert (answer.status, answer.json["code"]) == (403, "origin-foreign")
    assert room.line.public().state == "open"


# The line


async def test_the_overview_has_the_fields_that_were_agreed(room, operator):
    await visitors(room, 3)
    await room.pass_time(2)
    body = (await operator.get(API)).json
    assert body["line"]["state"] == "open"
    assert {"places", "reason_en", "reason_zh", "announcement_en", "announcement_zh"} <= set(
        body["line"]
    )
    assert {
        "waiting", "aside", "serving", "places", "wait_median", "wait_p90", "served_recent",
        "missed_recent",
    } <= set(body["kpi"])  # fmt: skip
    assert body["total"] == 3 and body["offset"] == 0
    row = body["rows"][0]
    assert (row["no"], row["name"], row["state"]) == ("A-001", "Visitor 1", "called")
    assert row["service_title"] == "Look up a phone number"
    assert set(row) == {
        "number", "no", "name", "service", "service_title", "state", "position", "joined_at",
        "waited", "heard", "left", "extends_used", "away",
    }  # fmt: skip
    assert set(body["jobs"]) == {
        "ready", "reserved", "delayed", "buried", "cap", "paused_reason",
    }  # fmt: skip
    assert body["marshal"] == "test"


async def test_the_table_is_paged_and_searched(room, operator):
    await visitors(room, 7)
    body = (await operator.get(f"{API}?offset=5&limit=5")).json
    assert (body["total"], body["offset"]) == (7, 5)
    assert [row["number"] for row in body["rows"]] == [6, 7]
    for search in ("visitor 3", "3", "A-003", "a-3"):
        found = (await operator.get(f"{API}?search={search.replace(' ', '+')}")).json
        assert [row["number"] for row in found["rows"]] == [3], search
    for bad in ("offset=x", "limit=-1", "offset=%C2%B2"):
        assert (await operator.get(f"{API}?{bad}")).json["code"] == "number-malformed"


async def test_open_pause_resume_drain_close(room, operator):
    for verb, said, state in (
        ("pause", {"reason_en": "Lunch", "reason_zh": "午休"}, "paused"),
        ("resume", None, "open"),
        ("drain", None, "draining"),
        ("close", {"reason": "Fire drill"}, "closed"),
        ("open", None, "open"),
    ):
        answer = await operator.send(f"{API}/{verb}", said)
        assert answer.status == 200
        assert answer.json["line"]["state"] == state


async def test_a_pause_needs_a_reason(room, operator):
    answer = await operator.send(f"{API}/pause")
    assert (answer.status, answer.json["code"]) == (400, "reason-missing")
    page = await operator.post(f"{ADMIN}/pause", reason_en=" ", reason_zh="")
    assert page.status == 400
    assert "Please give a reason." in page.text
    assert room.line.public().state == "open"


async def test_places_are_set_and_nonsense_is_refused(room, operator):
    assert (await operator.send(f"{API}/places", {"places": 4})).json["line"]["places"] == 4
    assert (await operator.send(f"{API}/places", {"places": 0})).json["line"]["places"] == 0
    for places in (-1, 1000, 1.5, True, "many", None, [2], "9" * 50):
        answer = await operator.send(f"{API}/places", {"places": places})
        assert (answer.status, answer.json["code"]) == (400, "places-range"), places
    assert (await operator.post(f"{ADMIN}/places", places="3")).status == 303
    assert (await operator.post(f"{ADMIN}/places", places="three")).status == 400
    assert room.line.public().places == 3


async def test_an_announcement_is_read_in_both_languages_and_taken_down(room, operator):
    english, chinese = room.browser(), room.browser("zh-Hans")
    await operator.send(f"{API}/announce", {"text_en": "Cake at 3", "text_zh": "三点有蛋糕"})
    first = (await english.poll()).json["notice"]
    assert first["text"] == "Cake at 3"
    assert (await chinese.poll()).json["notice"]["text"] == "三点有蛋糕"
    await operator.send(f"{API}/announce", {"text_en": "Cake is gone"})
    second = (await chinese.poll()).json["notice"]
    assert second["text"] == "Cake is gone" and second["id"] > first["id"]
    await operator.send(f"{API}/announce", {"text_en": "", "text_zh": ""})
    assert (await english.poll()).json["notice"] is None


async def test_what_an_operator_says_must_be_text_that_can_be_shown(room, operator):
    for text, code in (
        ("x" * 201, "text-long"),
        ("a\u202eb", "field-characters"),
        ("a\x00b", "field-characters"),
        ("\ud800", "field-characters"),
        (5, "text-type"),
        (["x"], "text-type"),
    ):
        answer = await operator.send(f"{API}/announce", {"text_en": text})
        assert (answer.status, answer.json["code"]) == (400, code)
    await operator.send(f"{API}/announce", {"text_en": "<b>Bold</b>"})
    page = await room.browser().get("/lines/desk")
    assert "&lt;b&gt;Bold" in page.text and "<b>Bold" not in page.text


# One ticket


async def test_each_button_does_its_verb(room, operator):
    people = await visitors(room, 6)
    await operator.send(f"{API}/places", {"places": 0})

    async def does(number: int, verb: str, state: str, **said: object) -> None:
        answer = await operator.send(f"{API}/tickets/{number}/{verb}", said or None)
        assert answer.status == 200, answer.text
        assert (await people[number - 1].ticket())["state"] == state

    await does(3, "call", "called", seen="waiting")
    await does(3, "recall", "called")
    await does(3, "extend", "called")
    await does(3, "aside", "aside")
    await does(3, "return", "waiting")
    assert (await people[2].ticket())["ahead"] == 0
    await does(3, "move", "waiting", position=5, reason="Fetching papers")
    assert (await people[2].ticket())["ahead"] == 4
    await does(2, "remove", "removed", reason="Twice in line")
    await operator.send(f"{API}/places", {"places": 1})
    assert (await operator.send(f"{API}/call-next")).status == 200
    await people[0].do("confirm")
    await does(1, "finish", "done")


async def test_an_act_on_what_changed_meanwhile_is_refused(room, operator):
    visitor = (await visitors(room, 1))[0]
    await room.pass_time(2)
    answer = await operator.send(f"{API}/tickets/1/remove", {"seen": "waiting"})
    assert (answer.status, answer.json["code"]) == (409, "state-changed")
    assert answer.json["state"] == "called"
    page = await operator.post(f"{ADMIN}/tickets/1/remove", seen="waiting")
    assert page.status == 409
    assert "This changed in the meantime" in page.text
    assert (await visitor.ticket())["state"] == "called"


async def test_unknown_numbers_and_verbs_are_not_found(room, operator):
    await visitors(room, 1)
    for path, code in (
        ("tickets/99/call", "ticket-unknown"),
        ("tickets/x/call", "ticket-unknown"),
        ("tickets/-1/call", "ticket-unknown"),
        (f"tickets/{'9' * 30}/call", "ticket-unknown"),
        ("tickets/1/promote", "action-unknown"),
        ("explode", "action-unknown"),
    ):
        answer = await operator.send(f"{API}/{path}")
        assert (answer.status, answer.json["code"]) == (404, code), path
        assert (await operator.post(f"{ADMIN}/{path}")).status == 404
    assert (await operator.get("/api/admin/lines/nowhere")).json["code"] == "line-unknown"
    assert (await operator.send(f"{API}/tickets/1/move", {"position": 0})).json["code"] == (
        "position-range"
    )
    assert (await operator.get(f"{API}/close")).status == 405


async def test_every_action_is_in_the_audit_with_who_and_what_became_of_it(room, operator):
    await visitors(room, 1)
    await operator.send(f"{API}/tickets/1/remove", {"reason_en": "Twice in line"})
    await operator.send(f"{API}/tickets/1/finish")
    finish, remove = (await operator.get(API)).json["actions"]
    assert (remove["who"], remove["action"], remove["no"]) == ("anna", "remove", "A-001")
    assert (remove["before"], remove["after"], remove["outcome"]) == ("waiting", "removed", "done")
    assert remove["reason"] == "Twice in line"
    assert finish["outcome"] == "not-serving"
    entry = (await room.ledger.recent_actions("desk"))[0]
    assert entry.address == "127.0.0.1"


async def test_the_page_works_with_forms_alone(room, operator):
    await visitors(room, 2)
    page = await operator.get(ADMIN)
    assert page.status == 200
    assert "Visitor 1" in page.text and "A-002" in page.text
    for path, said in (
        ("announce", {"text_en": "Hello", "text_zh": ""}),
        ("tickets/2/move", {"position": "1", "seen": "waiting"}),
        ("tickets/2/aside", {"seen": "waiting"}),
        ("call-next", {}),
    ):
        answer = await operator.post(f"{ADMIN}/{path}", said)
        assert (answer.status, answer.leads_to) == (303, ADMIN), path
    page = await operator.get(f"{ADMIN}?search=nobody")
    assert "Visitor 1" not in page.text


async def test_the_operators_page_is_there_in_chinese(room):
    operator = await room.operator("zh-Hans")
    page = await operator.get(ADMIN)
    assert page.status == 200
    assert '<html lang="zh-Hans"' in page.text
