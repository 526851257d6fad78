"""The operators' side over HTTP: the door, the live line, and each verb behind its button."""

import pytest
import pytest_asyncio

from queue_backend.errors import Unavailable
from queue_backend.work.job import SlotView
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
        await stranger.send(f"{API}/jobs/1/cancel"),
        await stranger.send(f"{API}/work/pause", {"reason": "x"}),
    ):
        assert (answer.status, answer.json["code"]) == (401, "session-missing")
    for answer in (
        await stranger.get("/admin"),
        await stranger.get(ADMIN),
        await stranger.post(f"{ADMIN}/close"),
        await stranger.post(f"{ADMIN}/tickets/1/remove"),
        await stranger.post(f"{ADMIN}/jobs/1/cancel"),
        await stranger.post(f"{ADMIN}/work/pause"),
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
    for path in ("close", "work/pause", "jobs/1/cancel"):
        answer = await operator.send(f"{API}/{path}", Origin="https://evil.example")
        assert (answer.status, answer.json["code"]) == (403, "origin-foreign"), path
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


# The work line


async def request_of(room, service: str = "look-up-phone", account: str = "knolan"):
    """Somebody left a request at the desk; who, and the reference they were given."""
    visitor = room.browser()
    await visitor.reach_the_desk(service, "Karen Nolan")
    said = {"account": account}
    if service == "change-password":
        said |= {"password": "demo-pass-1", "new_password": "a-Canary-9000"}
        said |= {"new_password_again": "a-Canary-9000"}
    answer = await visitor.submit(**said)
    assert answer.status == 202, answer.text
    return visitor, answer.json["job"]["ref"]


async def work(operator):
    return (await operator.get(API)).json["work"]


async def buried(room, error: str = "lease-lapsed", **who: str):
    visitor, ref = await request_of(room, **who)
    lease = await room.jobs.touch(await room.jobs.reserve("win-01/1"), "running")
    await room.jobs.bury(lease, error)
    return visitor, ref, lease.job.id


async def test_a_request_is_shown_under_the_reference_that_the_person_was_given(room, operator):
    visitor, ref = await request_of(room)
    (row,) = (await work(operator))["rows"]
    assert set(row) == {
        "id", "ref", "title", "state", "position", "age", "for", "attempt", "fails", "holder",
        "stopping", "code", "error",
    }  # fmt: skip
    assert (row["ref"], row["title"]) == (ref, "Look up a phone number")
    assert (row["state"], row["position"], row["attempt"], row["holder"]) == ("ready", 1, 0, None)
    page = await operator.get(ADMIN)
    assert ref in page.text


async def test_what_a_request_is_about_stays_between_the_person_and_the_service(room, operator):
    await request_of(room, "change-password")
    for answer in (await operator.get(API), await operator.get(ADMIN)):
        assert answer.status == 200
        for typed in ("knolan", "demo-pass-1", "a-Canary-9000"):
            assert typed not in answer.text


async def test_what_runs_comes_first_with_its_slot_then_what_is_buried_or_put_off(
    room, operator, clock
):
    for name in ("ran", "buried", "delayed", "waits"):
        await room.jobs.put("unlock", {}, key=name)
    running = await room.jobs.reserve("win-01/1")
    await room.jobs.bury(await room.jobs.reserve("win-01/2"), "lease-lapsed")
    await room.jobs.release(await room.jobs.reserve("win-01/2"), error="not-locked")
    clock.tick(7)
    rows = (await work(operator))["rows"]
    assert [row["state"] for row in rows] == ["reserved", "buried", "delayed", "ready"]
    assert (rows[0]["holder"], rows[0]["for"], rows[0]["age"]) == ("win-01/1", 7, 7)
    assert rows[1]["error"] == (
        "It was begun more than once and never ended. Please contact the help desk."
    )
    assert (rows[2]["fails"], rows[2]["for"]) == (1, 593)
    assert rows[3]["position"] == 1
    await room.jobs.cancel(running.job.id)
    assert (await work(operator))["rows"][0]["stopping"] is True
    clock.tick(40)
    assert (await work(operator))["rows"][-2]["stopping"] is False, "nobody runs it any more"


@pytest.mark.parametrize(
    ("error", "code", "english", "chinese"),
    [
        ("lease-lapsed", "lease-lapsed", "It was begun more than once", "多次开始"),
        ("directory-busy", "directory-busy", "directory-busy", "directory-busy"),
        ("ValueError: a-Canary-9000", None, "The log of the worker tells why.", "日志"),
    ],
)
async def test_an_error_is_a_sentence_in_the_operators_language_or_a_bare_code(
    room, operator, error, code, english, chinese
):
    """The text of an exception may hold what somebody typed; it stays in the log."""
    await buried(room, error)
    (row,) = (await work(operator))["rows"]
    assert row["code"] == code and english in row["error"]
    page = await (await room.operator("zh-Hans")).get(ADMIN)
    assert chinese in page.text
    assert "a-Canary" not in page.text + (await operator.get(API)).text


async def test_a_kicked_request_runs_and_the_person_has_the_answer(room, operator):
    visitor, ref, id = await buried(room)
    answer = await operator.send(f"{API}/jobs/{id}/kick", {"seen": "buried"})
    assert answer.status == 200
    assert answer.json["work"]["rows"][0]["state"] == "ready"
    await room.work()
    assert (await visitor.poll()).json["job"]["result"] == "done"
    assert (await work(operator))["rows"] == []


async def test_a_cancelled_request_is_not_carried_out_and_may_be_tried_again(room, operator):
    visitor, ref = await request_of(room)
    (row,) = (await work(operator))["rows"]
    said = {"seen": "ready", "reason": "Asked by telephone"}
    assert (await operator.send(f"{API}/jobs/{row['id']}/cancel", said)).status == 200
    job = (await visitor.poll()).json["job"]
    assert (job["result"], job["code"], job["may_retry"]) == ("failed", "cancelled", True)
    assert job["text"] == "It was stopped before anything was changed."
    action = (await operator.get(API)).json["actions"][0]
    assert (action["action"], action["no"], action["reason"]) == (
        "job-cancel", str(row["id"]), "Asked by telephone",
    )  # fmt: skip
    assert (action["before"], action["after"], action["outcome"]) == ("ready", "cancelled", "done")


async def test_nobody_promises_that_a_request_which_was_begun_changed_nothing(room, operator):
    visitor, ref, id = await buried(room, service="change-password")
    assert (await operator.send(f"{API}/jobs/{id}/cancel")).status == 200
    job = (await visitor.poll()).json["job"]
    assert (job["result"], job["may_retry"]) == ("unknown", False)
    retried = await visitor.send("/api/lines/desk/ticket/retry")
    assert retried.json["code"] == "not-retryable"


async def test_a_running_request_is_only_asked_to_stop(room, operator):
    await request_of(room)
    lease = await room.jobs.reserve("win-01/1")
    answer = await operator.send(f"{API}/jobs/{lease.job.id}/cancel", {"seen": "reserved"})
    assert answer.status == 200
    assert (await room.jobs.touch(lease)).job.stop_asked
    kicked = await operator.send(f"{API}/jobs/{lease.job.id}/kick")
    assert (kicked.status, kicked.json["code"]) == (409, "job-wrong-state")


async def test_an_act_on_a_request_that_changed_meanwhile_is_refused(room, operator):
    await request_of(room)
    lease = await room.jobs.reserve("win-01/1")
    answer = await operator.send(f"{API}/jobs/{lease.job.id}/cancel", {"seen": "ready"})
    assert (answer.status, answer.json["code"]) == (409, "state-changed")
    assert answer.json["state"] == "reserved"
    page = await operator.post(f"{ADMIN}/jobs/{lease.job.id}/kick", seen="buried")
    assert page.status == 409
    assert "This changed in the meantime" in page.text
    assert not (await room.jobs.touch(lease)).job.stop_asked
    assert (await operator.get(API)).json["actions"][0]["outcome"] == "state-changed"


async def test_all_buried_are_kicked_together_if_they_are_those_that_were_seen(room, operator):
    for _ in range(3):
        await room.jobs.put("unlock", {})
        await room.jobs.bury(await room.jobs.reserve("win-01/1"), "lease-lapsed")
    answer = await operator.send(f"{API}/work/kick-buried", {"seen": "2"})
    assert (answer.status, answer.json["code"]) == (409, "state-changed")
    assert (await room.jobs.stats()).buried == 3
    assert (await operator.post(f"{ADMIN}/work/kick-buried", seen="3")).status == 303
    stats = await room.jobs.stats()
    assert (stats.buried, stats.ready) == (0, 3)


async def test_the_work_line_is_paused_with_a_reason_and_resumed(room, operator):
    await request_of(room)
    answer = await operator.send(f"{API}/work/pause")
    assert (answer.status, answer.json["code"]) == (400, "reason-missing")
    said = {"seen": "running", "reason": "broken: a new certificate"}
    told = (await operator.send(f"{API}/work/pause", said)).json
    assert told["work"]["state"] == "paused"
    assert told["work"]["why"] == "anna – broken: a new certificate"
    assert await room.jobs.reserve("win-01/1") is None
    await room.worker.keep_house()
    assert (await work(operator))["state"] == "paused", "it is not the worker's to resume"
    again = await operator.send(f"{API}/work/pause", said)
    assert (again.status, again.json["code"]) == (409, "state-changed")
    assert (await operator.post(f"{ADMIN}/work/resume", seen="paused")).status == 303
    assert (await work(operator))["state"] == "running"
    assert await room.jobs.reserve("win-01/1") is not None


async def test_a_lane_that_a_worker_paused_says_so_in_words(room, operator):
    await room.jobs.pause(reason="broken: account-locked")
    assert (await work(operator))["why"].startswith("The account is locked")
    await room.jobs.pause(reason="broken: certificate-expired")
    assert (await work(operator))["why"] == "broken: certificate-expired"


async def test_what_cannot_be_written_into_the_audit_is_not_done(room, operator, monkeypatch):
    await room.jobs.put("unlock", {}, key="waits")
    _, _, id = await buried(room, service="unlock")
    before = [(job.id, job.state) for job in await room.jobs.snapshot(9)]

    async def out_of_order(entry):
        raise Unavailable("database-unavailable", "out of order")

    monkeypatch.setattr(room.ledger, "intend", out_of_order)
    for path in (
        f"jobs/{id}/kick",
        f"jobs/{id}/cancel",
        "work/kick-buried",
        "work/pause",
        "work/resume",
    ):
        assert (await operator.send(f"{API}/{path}", {"reason": "x"})).status == 503, path
    assert [(job.id, job.state) for job in await room.jobs.snapshot(9)] == before
    assert await room.jobs.paused() is None


async def test_every_act_on_the_work_line_is_in_the_audit(room, operator):
    _, _, id = await buried(room)
    await operator.send(f"{API}/work/pause", {"reason_en": "Certificate", "reason_zh": "证书"})
    await operator.send(f"{API}/work/resume")
    await operator.send(f"{API}/work/kick-buried")
    await operator.send(f"{API}/jobs/{id}/cancel")
    rows = await room.ledger.recent_actions("desk")
    assert [(row.action, row.before, row.after) for row in rows] == [
        ("job-cancel", "ready", "cancelled"),
        ("work-kick-buried", "1", "0"),
        ("work-resume", "paused", "running"),
        ("work-pause", "running", "paused"),
    ]
    assert {(row.who, row.address, row.outcome) for row in rows} == {("anna", "127.0.0.1", "done")}
    assert rows[3].reason == "Certificate / 证书"
    assert (rows[0].number, rows[1].number) == (id, None)
    page = await operator.get(ADMIN)
    assert "paused the work line" in page.text and "cancelled request" in page.text


async def test_unknown_requests_and_verbs_are_not_found(room, operator):
    await request_of(room)
    for path, code in (
        ("jobs/99/kick", "job-unknown"),
        ("jobs/x/kick", "job-unknown"),
        ("jobs/-1/cancel", "job-unknown"),
        (f"jobs/{'9' * 30}/kick", "job-unknown"),
        ("jobs/1/bury", "action-unknown"),
        ("work/explode", "action-unknown"),
    ):
        answer = await operator.send(f"{API}/{path}")
        assert (answer.status, answer.json["code"]) == (404, code), path
        assert (await operator.post(f"{ADMIN}/{path}")).status == 404
    assert (await operator.get(f"{ADMIN}?job=99")).status == 404
    assert (await operator.get(f"{API}/work/pause")).status == 405


async def test_a_worker_that_says_nothing_more_is_shown_as_not_heard_of(room, operator, clock):
    await request_of(room)
    lease = await room.jobs.reserve("win-01/1")
    now = clock.wall()
    views = [
        SlotView("win-01", 1, "busy", lease.job.id, now),
        SlotView("win-01", 2, "slow", 77, now - 60),
        SlotView("win-01", 3, "idle", None, now),
    ]
    await room.jobs.report("win-01", views)
    clock.tick(5)
    busy, slow, idle = (await work(operator))["slots"]
    (row,) = (await work(operator))["rows"]
    assert (busy["slot"], busy["state"], busy["job"]) == ("win-01/1", "busy", row["ref"])
    assert busy["for"] == 5
    assert (slow["state"], slow["job"], idle["state"], idle["for"]) == ("slow", "77", "idle", None)
    clock.tick(11)
    assert {(slot["state"], slot["for"]) for slot in (await work(operator))["slots"]} == {
        ("lost", 16)
    }
    page = await operator.get(ADMIN)
    assert "Not heard of" in page.text


async def test_a_reason_can_be_given_without_a_script(room, operator):
    visitor = (await visitors(room, 12))[1]
    page = await operator.get(f"{ADMIN}?ticket=2")
    assert f'formaction="{ADMIN}/tickets/2/remove"' in page.text
    assert "A-002 Visitor 2" in page.text
    said = {"seen": "waiting", "reason_en": "Twice in line", "reason_zh": ""}
    assert (await operator.post(f"{ADMIN}/tickets/2/remove", said)).status == 303
    assert (await visitor.ticket())["end"]["reason"] == "Twice in line"
    job = await room.jobs.put("unlock", {})
    page = await operator.get(f"{ADMIN}?job={job.id}")
    assert f'formaction="{ADMIN}/jobs/{job.id}/cancel"' in page.text
