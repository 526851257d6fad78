"""The JSON API: a whole visit by program, and what a poll may cost and tell."""

import asyncio
import inspect
import json
import secrets
import sys

import pytest
import pytest_asyncio
from tornado.httputil import HTTPHeaders, RequestStartLine

from handlers.wire import PollText, poll_body
from queue_backend.people.roster import Moved, Words
from queue_backend.people.rules import Rules
from queue_backend.people.store import Store
from queue_backend.people.ticket import State
from tests.front import a_room

TICKET = {
    "no", "number", "service", "state", "ahead", "behind", "joined_at", "joined_ahead", "eta",
    "answer", "aside", "undo", "place_in", "keep", "moved", "away", "end",
}  # fmt: skip
BODY = {"v", "rev", "now", "build", "line", "ticket", "ahead", "job", "notice", "poll"}
LINE = {
    "name", "state", "reason", "opens_at", "serving", "called", "waiting", "estimate", "frozen",
}  # fmt: skip


@pytest_asyncio.fixture
async def room(tmp_path, clock):
    async with a_room(tmp_path, clock) as room:
        yield room


# A visit


async def test_a_whole_visit_by_program_alone(room):
    """Take, poll, confirm when called, submit a look-up, read its result: with a token only."""
    visitor = room.browser()
    taken = await visitor.take("张伟", "look-up-phone")
    assert taken.status == 201
    assert taken.json["ticket"]["no"] == "A-001"
    visitor.cookies.clear()
    mine = {"Authorization": f"Ticket {taken.json['token']}"}

    async def poll():
        return (await visitor.get("/api/lines/desk/ticket", **mine)).json

    assert (await poll())["ticket"]["state"] == "waiting"
    await room.pass_time(2)
    body = await poll()
    assert body["ticket"]["state"] == "called"
    assert body["ticket"]["answer"]["extends_left"] == 10
    # The paper says another state now, so it is stamped anew and comes in the body.
    mine = {"Authorization": f"Ticket {body['token']}"}

    confirmed = await visitor.send("/api/lines/desk/ticket/confirm", **mine)
    assert confirmed.json["ticket"]["state"] == "serving"
    put = await visitor.send(
        "/api/lines/desk/ticket/job",
        {"action": "look-up-phone", "fields": {"account": "knolan"}},
        **mine,
    )
    assert put.status == 202
    assert put.json["job"]["step"] == "waiting"
    assert put.json["poll"]["in"] == 2

    await room.work()
    job = (await poll())["job"]
    assert (job["step"], job["result"]) == ("finished", "done")
    assert {field["name"]: field["value"] for field in job["fields"]}["name"] == "Karen Nolan"
    assert job["text"] and job["ref"].endswith(f"-{job['id']}")
    assert not visitor.cookies


async def test_what_everybody_may_see_of_a_line(room):
    for name in ("Ann", "Bea", "Cem", "Dan", "Eva"):
        await room.browser().take(name)
    await room.pass_time(2)
    body = (await room.browser().get("/api/lines/desk")).json
    assert body["line"] | {"called": [], "waiting": 0} == body["line"] | {
        "name": "desk", "state": "open", "called": [], "serving": [], "waiting": 0,
    }  # fmt: skip
    assert body["line"]["called"] == ["A-001", "A-002", "A-003"]
    assert body["line"]["waiting"] == 2
    assert body["upcoming"] == ["A-004", "A-005"]
    assert body["line"]["title_zh"] == "账号自助台"
    every = (await room.browser().get("/api/lines")).json["lines"]
    assert every == [body]


async def test_the_poll_body_has_the_fields_that_were_agreed(room):
    visitor = room.browser()
    nobody = (await visitor.poll()).json
    assert nobody.keys() == BODY
    assert nobody["ticket"] is None and nobody["ahead"] == [] and nobody["job"] is None
    await room.browser().take("Ahead")
    await visitor.take()
    body = (await visitor.poll()).json
    assert body.keys() == BODY
    assert body["line"].keys() == LINE
    assert body["ticket"].keys() == TICKET
    assert body["ahead"] == [{"no": "A-001", "name": "A***d", "state": "waiting", "for": None}]
    assert body["poll"] == {"in": 3.0, "hidden_in": 15.0, "stale_after": 10.0}


async def test_a_number_has_three_digits_at_least(room):
    desk = room.parts.desks["desk"]
    assert [desk.number_text(number) for number in (1, 42, 999, 1000, 123456)] == [
        "A-001", "A-042", "A-999", "A-1000", "A-123456",
    ]  # fmt: skip


async def test_others_are_named_masked_and_nowhere_else(room):
    for name in ("Karen Nolan", "张伟", "李小明"):
        await room.browser().take(name)
    visitor = room.browser()
    await visitor.take("Myself")
    await room.line.round()
    poll = await visitor.poll()
    assert [each["name"] for each in poll.json["ahead"]] == ["K***n", "张*", "李*明"]
    page = await visitor.get("/lines/desk")
    for answer in (poll, page, await visitor.get("/lines/desk/wall")):
        for name in ("Karen", "Nolan", "张伟", "小明"):
            assert name not in answer.text


async def test_at_most_ten_are_told_by_name(room):
    for number in range(15):
        await room.browser().take(f"Visitor {number}")
    visitor = room.browser()
    await visitor.take()
    body = (await visitor.poll()).json
    assert body["ticket"]["ahead"] == 15
    assert len(body["ahead"]) == 10
    assert len((await visitor.poll()).text.encode()) < 1536


async def test_leave_and_undo_give_the_same_place_back(room):
    first, second = room.browser(), room.browser()
    await first.take()
    await second.take()
    left = (await first.do("leave")).json["ticket"]
    assert (left["state"], left["end"]["code"]) == ("left", "left")
    assert left["undo"] == {"left_in": 30}
    assert (await first.do("undo")).json["ticket"]["state"] == "waiting"
    assert (await second.ticket())["ahead"] == 1


async def test_let_someone_go_first(room):
    first, second = room.browser(), room.browser()
    await first.take()
    await second.take()
    ticket = (await first.do("yield")).json["ticket"]
    assert (ticket["ahead"], ticket["behind"]) == (1, 0)
    assert (await second.ticket())["ahead"] == 0


async def test_who_does_not_answer_is_set_aside_and_comes_back_next(room):
    visitor = room.browser()
    await visitor.take()
    await room.pass_time(2)
    assert (await visitor.do("extend")).json["ticket"]["answer"]["extends_left"] == 9
    await room.pass_time(182)
    aside = await visitor.ticket()
    assert aside["state"] == "aside"
    assert 800 < aside["aside"]["left_in"] <= 930  # kept in steps of half a minute
    assert (await visitor.do("return")).json["ticket"]["state"] == "waiting"
    await room.pass_time(2)
    assert (await visitor.ticket())["state"] == "called"


async def test_a_moved_person_reads_from_where_to_where_and_why(room):
    operator = await room.operator()
    visitors = [room.browser("zh-Hans") for _ in range(3)]
    for visitor in visitors:
        await visitor.take()
    said = {"position": 3, "reason_en": "An emergency", "reason_zh": "紧急情况"}
    await operator.send("/api/admin/lines/desk/tickets/1/move", said)
    moved = (await visitors[0].ticket())["moved"]
    assert moved == {"from": 1, "to": 3, "reason": "紧急情况"}
    assert (await visitors[0].do("acknowledge")).json["ticket"]["moved"] is None


async def test_a_ticket_is_stamped_anew_and_the_cookie_with_it(room, clock):
    visitor = room.browser()
    await visitor.take()
    first = visitor.cookies["ticket_desk"]
    await visitor.poll()
    assert visitor.cookies["ticket_desk"] == first
    clock.tick(60)
    answer = await visitor.poll()
    assert visitor.cookies["ticket_desk"] != first
    assert "token" not in answer.json
    cookie = answer.headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert attribute in cookie
    assert "Secure" not in cookie


async def test_behind_tls_the_cookie_is_secure_and_of_this_host_only(tmp_path, clock):
    async with a_room(tmp_path, clock, public_url="https://desk.example") as room:
        visitor = room.browser()
        cookie = (await visitor.take()).headers["Set-Cookie"]
        assert cookie.startswith("__Host-ticket_desk=")
        assert "; Secure" in cookie
        assert (await visitor.ticket())["no"] == "A-001"
        clock.tick(60)
        stamped = (await visitor.poll()).headers["Set-Cookie"]
        assert stamped.startswith("__Host-ticket_desk=") and "; Secure" in stamped
        page = await visitor.get("/lines/desk")
        assert page.headers["Strict-Transport-Security"]


async def test_the_body_written_by_hand_is_the_body(room):
    visitors = [room.browser() for _ in range(6)]
    for visitor in visitors:
        await visitor.take('Zoë "Q" 张伟')
    await room.pass_time(1)
    token = visitors[5].cookies["ticket_desk"]
    known = room.line.standing_known(room.signer.read(token, "desk"))
    assert known is not None and known.neighbours
    desk, public = room.parts.desks["desk"], room.line.public()
    for standing in (
        known,
        known._replace(estimate=(61.2, 140.7), away=True),
        known._replace(estimate=(0.0, 59.9), grew="slow"),
        known._replace(moved=Moved(3, 5, Words("A guest", "来宾"))),
        known._replace(state=State.ASIDE, aside_left_seconds=80.5),
    ):
        told = json.loads(PollText(desk, "b").of(standing, public, "en", 7.0))
        assert told == poll_body(standing, public, desk, "en", 7.0, "b")


# The job


async def test_one_submission_is_one_job_however_often_it_is_sent(room):
    visitor = room.browser()
    await visitor.reach_the_desk()
    first = await visitor.submit(account="knolan")
    second = await visitor.submit(account="zhangwei")
    assert (first.status, second.status) == (202, 202)
    assert first.json["job"]["id"] == second.json["job"]["id"]
    assert (await room.jobs.stats()).ready == 1


async def test_a_job_put_before_a_crash_is_found_again_and_not_put_twice(room, monkeypatch):
    """The process dies between putting the job and marking the ticket served."""
    visitor = room.browser()
    await visitor.reach_the_desk()

    async def dies(ticket):
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(room.line, "finish", dies)
        assert (await visitor.submit(account="knolan")).status == 500
    assert (await visitor.ticket())["state"] == "serving"
    again = await visitor.submit(account="knolan")
    assert again.status == 202
    assert again.json["ticket"]["state"] == "done"
    assert (await room.jobs.stats()).ready == 1


async def test_a_form_sent_again_after_its_job_was_done_is_not_carried_out_twice(room, monkeypatch):
    """The process dies between the two, and the job is done before the form is sent again."""
    visitor = room.browser()
    await visitor.reach_the_desk()

    async def dies(ticket):
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(room.line, "finish", dies)
        assert (await visitor.submit(account="knolan")).status == 500
    await room.work()
    again = await visitor.submit(account="knolan")
    assert (again.status, again.json["job"]["result"]) == (202, "done")
    assert again.json["ticket"]["state"] == "done"
    stats = await room.jobs.stats()
    assert (stats.ready, len(stats.recent_seconds)) == (0, 1)


async def test_a_rejected_job_may_be_tried_again_without_queueing(room):
    visitor = room.browser()
    await visitor.reach_the_desk()
    await visitor.submit(account="nobody-by-that-name")
    assert (await visitor.do("retry")).status == 409
    await room.work()
    job = (await visitor.poll()).json["job"]
    assert (job["result"], job["may_retry"]) == ("failed", True)
    assert job["text"]

    assert (await visitor.do("retry")).json["ticket"]["state"] == "serving"
    put = await visitor.submit(account="knolan")
    assert put.json["job"]["id"] != job["id"]
    await room.work()
    assert (await visitor.poll()).json["job"]["result"] == "done"
    assert (await visitor.do("retry")).json["code"] == "not-retryable"


async def test_secrets_are_sealed_before_they_are_stored(room, tmp_path):
    visitor = room.browser()
    await visitor.reach_the_desk("change-password", "Karen Nolan")
    secret, new = "demo-pass-1", "a-Canary-9000"
    answer = await visitor.submit(
        account="knolan", password=secret, new_password=new, new_password_again=new
    )
    assert answer.status == 202
    job = await room.jobs.peek(int(answer.json["job"]["id"]))
    assert job.args["fields"] == {"account": "knolan"}
    assert isinstance(job.args["sealed"], str)
    for file in tmp_path.glob("room.db*"):
        assert new.encode() not in file.read_bytes()
    await room.work()
    poll = await visitor.poll()
    assert poll.json["job"]["result"] == "done"
    assert new not in poll.text


async def test_a_job_says_how_many_are_ahead_and_how_long_it_usually_takes(room, clock):
    for count in range(6):
        visitor = room.browser()
        await visitor.reach_the_desk()
        await visitor.submit(account="knolan")
        if count < 5:
            lease = await room.jobs.reserve("somebody")
            clock.tick(10 + count)
            await room.jobs.ack(lease, {"outcome": "done", "code": "found", "fields": {}})
    await room.jobs.put("look-up-phone", {"fields": {}}, pri=1)
    job = (await visitor.poll()).json["job"]
    assert (job["step"], job["ahead"]) == ("waiting", 1)
    assert job["usual"] == {"lo": 12, "hi": 14}


async def test_with_too_many_jobs_waiting_one_stays_at_the_desk(room, monkeypatch):
    visitor = room.browser()
    await visitor.reach_the_desk()
    monkeypatch.setattr(room.jobs, "_depth", 0)
    full = await visitor.submit(account="knolan")
    assert (full.status, full.json["code"]) == (503, "store-busy")
    assert int(full.headers["Retry-After"]) >= 1
    assert (await visitor.ticket())["state"] == "serving"


async def test_texts_come_in_the_language_that_was_asked_for(room):
    operator = await room.operator()
    said = {"reason_en": "Back at noon", "reason_zh": "中午恢复"}
    await operator.send("/api/admin/lines/desk/pause", said)
    visitor = room.browser("zh-CN,zh;q=0.9,en;q=0.5")
    assert (await visitor.poll()).json["line"]["reason"] == "中午恢复"
    assert (await visitor.get("/api/lines/desk/ticket?lang=en")).json["line"]["reason"] == (
        "Back at noon"
    )
    visitor.cookies["lang"] = "en"
    assert (await visitor.poll()).json["line"]["reason"] == "Back at noon"


# What a poll costs


@pytest.mark.parametrize("state", ["waiting", "called", "serving", "aside", "paused"])
async def test_the_fast_lane_says_what_the_ordinary_way_says(room, state):
    await room.browser().take("张伟")
    visitor = room.browser()
    await visitor.take()
    if state == "paused":
        operator = await room.operator()
        await operator.send("/api/admin/lines/desk/pause", {"reason": "Lunch"})
        await operator.send("/api/admin/lines/desk/announce", {"text_en": "Hello", "text_zh": "好"})
    elif state != "waiting":
        await room.pass_time({"called": 2, "serving": 2, "aside": 200}[state])
        if state == "serving":
            await visitor.do("confirm")
    await visitor.poll()
    fast = await visitor.get("/api/lines/desk/ticket")
    ordinary = await visitor.get("/api/lines/desk/ticket?ordinary")
    assert fast.json == ordinary.json
    assert room.application.counts.polls >= 1
    assert room.application.counts.answers["PollApi", 200] == 1
    for name in ("Content-Type", "Cache-Control", "X-Content-Type-Options"):
        assert fast.headers[name] == ordinary.headers[name]
    standing = await room.line.stand(room.signer.read(visitor.cookies["ticket_desk"], "desk"))
    desk = room.parts.desks["desk"]
    now = room.clock.wall()
    assert fast.json == json.loads(
        json.dumps(poll_body(standing, room.line.public(), desk, "en", now, "dev"))
    )


async def test_a_join_on_the_fast_lane_is_one_on_the_ordinary_way(room):
    said = {"name": "张伟", "service": "unlock", "request_id": secrets.token_hex(8)}
    browser, program = room.browser(), room.browser()
    fast = await program.send("/api/lines/desk/tickets", said)
    ordinary = await browser.send("/api/lines/desk/tickets", said, **{"Sec-Fetch-Site": "none"})
    assert room.application.counts.joins == 1
    assert room.application.counts.answers["TakeApi", 201] == 1
    assert fast.json == ordinary.json
    assert set(fast.headers) == set(ordinary.headers)
    assert program.cookies == browser.cookies
    again = await program.send("/api/lines/desk/tickets", said)
    assert (again.status, again.json["ticket"]) == (200, fast.json["ticket"])


async def test_who_hangs_up_during_a_join_finds_the_number_again(room):
    said = {"name": "Li", "service": "unlock", "request_id": secrets.token_hex(8)}
    body = json.dumps(said).encode()
    host, port = room.address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/lines/desk/tickets HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.1)
    assert (await room.browser().send("/api/lines/desk/tickets", said)).json["ticket"][
        "number"
    ] == 1
    assert room.line.public().waiting == 1


async def test_a_poll_asks_no_store_and_no_database(room, monkeypatch):
    visitor = room.browser()
    await visitor.take()
    await visitor.poll()

    async def asked(*arguments, **named):
        raise AssertionError("a poll asked a store")

    for name, _ in inspect.getmembers(Store, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            monkeypatch.setattr(room.store, name, asked)
    monkeypatch.setattr(room.database, "read", asked)
    monkeypatch.setattr(room.database, "write", asked)
    for path in ("/api/lines/desk/ticket", "/api/lines/desk/ticket?ordinary"):
        assert (await visitor.get(path)).status == 200


async def test_a_poll_takes_as_many_steps_however_many_wait(tmp_path, clock):
    """The work of an answer without the server around it, counted in calls: no clock can err."""
    async with a_room(tmp_path, clock, Rules(max_waiting=100_000)) as room:

        async def fill(count: int) -> None:
            for _ in range(count // 1000):
                ids = [secrets.token_hex(8) for _ in range(1000)]
                await asyncio.gather(*(room.line.take("Li", "unlock", id_) for id_ in ids))

        await fill(1000)
        ticket = await room.line.take("Karen", "unlock", secrets.token_hex(8))
        few = _calls_an_answer(room, ticket)
        await fill(9000)
        last = await room.line.take("Karen", "unlock", secrets.token_hex(8))
        assert _calls_an_answer(room, last) <= few + 5
        assert _calls_an_answer(room, ticket) <= few + 5


def _calls_an_answer(room, ticket) -> int:
    token = room.signer.sign(ticket)
    headers = HTTPHeaders({"Host": "127.0.0.1", "Authorization": f"Ticket {token}"})
    line = RequestStartLine("GET", "/api/lines/desk/ticket", "HTTP/1.1")
    assert room.application.lane.poll(line, headers) is not None  # what is kept, is kept now
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        room.application.lane.poll(line, headers)
    finally:
        sys.setprofile(None)
    return calls


async def test_a_poll_has_few_headers_and_none_that_names_the_server(room):
    visitor = room.browser()
    await visitor.take()
    headers = (await visitor.poll()).headers
    assert set(headers) - {"Connection"} == {
        "Content-Type",
        "Content-Length",
        "Date",
        "Cache-Control",
        "X-Content-Type-Options",
        "Content-Security-Policy",
        "Cross-Origin-Resource-Policy",
    }
    assert headers["Cache-Control"] == "no-store"


async def test_asking_never_changes_anything(room):
    """A GET of every address leaves the line as it was."""
    visitor = room.browser()
    await visitor.take()
    before = room.line.public().rev
    for path in (
        "/", "/lines/desk", "/lines/desk/desk", "/lines/desk/wall", "/lines/desk/take",
        "/lines/desk/leave", "/lines/desk/confirm", "/api/lines", "/api/lines/desk",
        "/api/lines/desk/ticket", "/api/lines/desk/tickets", "/api/lines/desk/ticket/leave",
        "/admin", "/api/admin/lines/desk", "/admin/lines/desk/close", "/language", "/healthz",
    ):  # fmt: skip
        await visitor.get(path)
        await visitor.ask("HEAD", path)
    assert room.line.public().rev == before
    assert (await visitor.ticket())["state"] == "waiting"


# How the service is


async def test_alive_and_ready_tell_which_part_is_away(tmp_path, clock):
    async def well() -> str:
        return ""

    async def away() -> str:
        raise OSError("no route to 10.0.0.7")

    async with a_room(tmp_path, clock, checks={"database": well}) as room:
        assert (await room.browser().get("/readyz")).status == 200
    (tmp_path / "second").mkdir()
    async with a_room(tmp_path / "second", clock, checks={"store": away, "database": well}) as room:
        assert (await room.browser().get("/healthz")).status == 200
        ready = await room.browser().get("/readyz")
        assert ready.status == 503
        assert ready.headers["Retry-After"]
        assert ready.json["parts"]["database"] == "ok"
        assert ready.json["parts"]["store"] != "ok"
        assert "10.0.0.7" not in ready.text


async def test_the_figures_are_there_for_prometheus(tmp_path, clock):
    async with a_room(tmp_path, clock, counters=lambda: {"heartbeats_sent_together": 7.0}) as room:
        visitor = room.browser()
        await visitor.reach_the_desk()
        await visitor.submit(account="knolan")
        await room.browser().take()
        await visitor.poll()
        text = (await visitor.get("/metrics")).text
        for line in (
            'nowserving_people{line="desk",state="waiting"} 1.0',
            'nowserving_people{line="desk",state="serving"} 0.0',
            'nowserving_jobs{line="desk",state="ready"} 1.0',
            'nowserving_slots{line="desk"} 2.0',
            'nowserving_answers_total{handler="FastLane",status="201"} 2.0',
            "nowserving_heartbeats_sent_together 7.0",
        ):
            assert line in text
