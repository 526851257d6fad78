"""Whole visits in real browsers, against a real `app.py serve`.

Every page that is opened here must leave the console empty and keep the content security policy.
Where a refusal or a stopped server is part of the story, the journey says which complaint of the
browser it expects.
"""

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser import PHONE, Browser, Person
from tests.processes import Serving, ended_together

Serve = Callable[..., Serving]
Somebody = Callable[..., Person]

LOOK_UP = "Look up a phone number"
HERE = "I’m here, start"

# One at the desk and nobody called ahead: who waits, waits until the desk is free.
ONE_BY_ONE = {"places": 1, "call_ahead": 0}


def room(**line: object) -> str:
    """A settings file: a quick directory behind the line `desk`, and what a journey needs."""
    rules = "\n".join(f"{name} = {json.dumps(value)}" for name, value in line.items())
    return (
        f"[lines.desk]\n{rules}\n[lines.desk.demo]\nshortest_seconds = 0.3\nlongest_seconds = 0.6\n"
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all journeys of this file."""
    if not Browser.installed():
        reason = "chromium is not installed (apt-get install chromium chromium-driver)"
        if os.environ.get("NOWSERVING_TEST_SKIP") and os.environ.get("CI") != "true":
            pytest.skip(reason)
        pytest.fail(reason)
    with Browser() as browser:
        yield browser


@pytest.fixture
def somebody(chromium: Browser) -> Iterator[Somebody]:
    """Sits a person in front of a server: `somebody(server, lang="zh-CN")`."""

    def sit(server: Serving, **traits: Any) -> Person:
        return chromium.person(server.url, **traits)

    yield sit
    complaints = chromium.complaints()
    chromium.send_home()
    assert complaints == []


class Program:
    """A visitor who comes by the API; answers and disappears exactly when told to."""

    def __init__(self, server: Serving, name: str, service: str = "look-up-phone") -> None:
        self._at = f"{server.url}/api/lines/desk"
        said = {"name": name, "service": service, "request_id": os.urandom(8).hex()}
        self._token = self._ask("/tickets", said)["token"]

    def poll(self) -> Any:
        return self._ask("/ticket")

    @property
    def state(self) -> str:
        return str(self.poll()["ticket"]["state"])

    def do(self, verb: str, **said: object) -> Any:
        return self._ask(f"/ticket/{verb}", said)

    def go_to_the_desk(self) -> "Program":
        deadline = time.monotonic() + 10
        while self.state != "called":
            assert time.monotonic() < deadline, f"not called: {self.poll()}"
            time.sleep(0.1)
        assert self.do("confirm")["ticket"]["state"] == "serving"
        return self

    def finish(self, account: str = "knolan") -> None:
        self.do("job", fields={"account": account})

    def _ask(self, path: str, said: object = None) -> Any:
        request = urllib.request.Request(
            self._at + path,
            data=None if said is None else json.dumps(said).encode(),
            headers={"Content-Type": "application/json"},
        )
        if path != "/tickets":
            request.add_header("Authorization", f"Ticket {self._token}")
        with urllib.request.urlopen(request, timeout=5) as answer:
            body = json.load(answer)
        self._token = body.get("token", getattr(self, "_token", None))
        return body


def take(person: Person, name: str, service: str = LOOK_UP) -> str:
    """Takes a number on the queue page; the number."""
    person.go("/lines/desk")
    person.choose(service)
    person.fill(person.read("label[for=f-name]"), name)
    person.press(person.read("#take button"), inside="take")
    person.waits_for("a number", lambda: "A-" in person.title)
    return number(person)


def number(person: Person) -> str:
    found = re.search(r"A-\d{3}", person.title)
    assert found, f"no number in the title {person.title!r}"
    return found[0]


def ask_as(person: Person) -> Any:
    """What the server says to this browser's ticket just now."""
    request = urllib.request.Request(person.site + "/api/lines/desk/ticket")
    request.add_header("Cookie", person.cookie())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def sign_in(operator: Person, server: Serving) -> None:
    operator.go("/admin")
    operator.sees("sign-in")
    operator.fill("User name", server.operator)
    operator.fill("Password", server.password)
    operator.press("Sign in")
    operator.sees("admin")


def test_the_third_moves_up_when_the_second_never_answers(serve: Serve, somebody: Somebody):
    """Three people, two places. The second misses the call, comes back, and is next."""
    server = serve(
        settings=room(places=2, call_ahead=0, answer_seconds=10, call_patience_seconds=60)
    )
    karen, wei, sara = somebody(server), somebody(server, lang="zh-CN"), somebody(server)
    assert take(karen, "Karen Nolan") == "A-001"
    assert take(wei, "张伟", "查询电话号码") == "A-002"
    assert take(sara, "Sara Duarte") == "A-003"
    assert sara.state == "waiting"

    karen.sees("called")
    karen.press(HERE)
    karen.sees("serving")
    karen.fill("Account or full name", "zhangwei")

    wei.sees("aside", 25)
    wei.reads("已叫号，但未收到您的确认。", "号码保留到")
    sara.sees("called")
    sara.press(HERE)
    sara.sees("serving")

    late = Program(server, "Late Comer")
    wei.press("我回来了")
    wei.sees("waiting")
    assert late.state == "waiting"

    karen.press(LOOK_UP, inside="desk")
    karen.sees("done")
    karen.reads("张伟", "Phone", "Mobile")
    wei.sees("called")
    assert number(wei) == "A-002"
    assert late.state == "waiting"

    sara.fill("Account or full name", "nobody-of-this-name")
    sara.press(LOOK_UP, inside="desk")
    sara.sees("failed")
    sara.reads("The directory knows nobody of this name.")


def test_reload_second_tab_and_restarted_browser_keep_the_place(serve: Serve, tmp_path):
    server = serve(settings=room(**ONE_BY_ONE))
    Program(server, "At The Desk").go_to_the_desk()
    with Browser(tmp_path / "profile") as browser:
        person = browser.owner(server.url)
        assert take(person, "Karen Nolan") == "A-002"
        before = ask_as(person)["ticket"]
        person.reload()
        assert number(person) == "A-002"

        second = person.another_tab().go("/lines/desk")
        second.sees("waiting")
        assert number(second) == "A-002"
        second.reads("1 person is ahead of you.")
        assert ask_as(second)["ticket"]["joined_at"] == before["joined_at"]
        assert browser.complaints() == []
    with Browser(tmp_path / "profile") as browser:
        person = browser.owner(server.url).go("/")
        person.sees("waiting")
        assert number(person) == "A-002"
        person.reads("1 person is ahead of you.")
        assert ask_as(person)["line"]["waiting"] == 1
        assert browser.complaints() == []


def test_an_operator_runs_the_work_line(serve: Serve, somebody: Somebody):
    """A worker is killed in the middle of a request: it is not heard of any more, the request is
    buried with its error, is kicked, and done. Meanwhile the line was paused and resumed."""
    slow = room(slots=1, job_lease_seconds=1, job_grace_seconds=0.2, job_tries=1)
    slow = slow.replace("= 0.3", "= 4").replace("= 0.6", "= 4.5")
    server = serve("--no-worker", settings=slow)
    worker = server.worker("killed")
    workers = [worker]
    with ended_together(workers):
        karen, operator = somebody(server), somebody(server, screen=PHONE)
        sign_in(operator, server)
        operator.reads("No request is waiting, running or buried.", "Idle")
        take(karen, "Karen Nolan")
        karen.sees("called")
        karen.press(HERE)
        karen.fill("Account or full name", "zhangwei")
        karen.press(LOOK_UP, inside="desk")
        karen.sees("job")
        reference = re.search(r"Reference: (\S+)\.", karen.text)
        assert reference, karen.text
        operator.reads(f"{reference[1]} {LOOK_UP}", "attempt 1 ·", "Busy")
        assert operator.read("#jobs [data-state=reserved] .pill").startswith("Running")
        worker.kill()
        killed = time.monotonic()

        operator.press("Pause the work line")
        operator.fill("Reason", "The directory moves")
        operator.press("Pause the work line", inside="stopping")
        operator.reads("Requests are stopped: operator – The directory moves")
        workers.append(server.worker("another"))
        operator.reads("Waiting", "Idle", seconds=20)
        assert karen.state == "job"

        operator.press("Resume the work line")
        operator.reads("It was begun more than once and never ended.")
        assert operator.read("#jobs [data-state=buried] .pill") == "Buried"
        karen.sees("failed")
        karen.reads("It was begun more than once and never ended.", f"Reference: {reference[1]}.")

        operator.press(f"Kick {reference[1]}")
        operator.reads("operator kicked request", "operator resumed the work line")
        karen.reload()
        karen.sees("done")
        karen.reads("张伟")
        operator.reads("No request is waiting, running or buried.")
        operator.reads("Not heard of", seconds=20 - (time.monotonic() - killed))
        assert operator.count("#slots li") == 2
        assert operator.script("return document.documentElement.scrollWidth") == PHONE[0]


def test_a_reason_is_given_and_a_request_cancelled_without_scripts(
    serve: Serve, somebody: Somebody
):
    server = serve("--no-worker", settings=room(**ONE_BY_ONE))
    Program(server, "At The Desk").go_to_the_desk().finish()
    twice = Program(server, "Taken Twice")
    operator = somebody(server, scripts=False)
    sign_in(operator, server)
    operator.press("More for A-002")
    operator.reads("A-002 Taken Twice", "The person reads the reason.")
    operator.fill("Reason in English", "Taken twice")
    operator.press("Remove A-002")
    operator.reads("operator removed A-002 Taken twice")
    assert twice.poll()["ticket"]["end"]["reason"] == "Taken twice"

    operator.press(f"More for {operator.read('#jobs b')}")
    operator.reads("It leaves the line for good")
    operator.press("Cancel…", inside="job")
    operator.reads("No request is waiting, running or buried.", "operator cancelled request 1")


def test_leaving_asks_once_and_undo_gives_the_place_back(serve: Serve, somebody: Somebody):
    server = serve(settings=room(**ONE_BY_ONE))
    Program(server, "At The Desk").go_to_the_desk()
    person = somebody(server, screen=PHONE)
    assert take(person, "Karen Nolan") == "A-002"
    behind = Program(server, "Next One")

    person.press("Leave the line")
    person.reads("Leave the line?", "You give up number A-002.")
    person.press("Stay in line")
    assert person.script("return document.activeElement.textContent") == "Leave the line"
    assert person.state == "waiting"

    person.press("Leave the line")
    person.press("Leave the line", inside="leaving")
    person.sees("left")
    person.reads("You left the line.", "Nothing was changed in your account.")
    assert behind.poll()["ticket"]["ahead"] == 1

    person.press("Undo…")
    person.sees("waiting")
    assert number(person) == "A-002"
    person.reads("1 person is ahead of you.", "1 person is behind you.")
    assert behind.poll()["ticket"]["ahead"] == 2


def test_an_operator_runs_the_line(serve: Serve, chromium: Browser, somebody: Somebody):
    """Signed in with the password the terminal printed: pause, resume, call out of order,
    remove with a reason that is read, and a press that came too late."""
    server = serve(settings=room(**ONE_BY_ONE))
    Program(server, "At The Desk").go_to_the_desk()
    karen, wei, operator = somebody(server), somebody(server, lang="zh-CN"), somebody(server)
    take(karen, "Karen Nolan")
    take(wei, "张伟", "查询电话号码")
    late = Program(server, "Late Comer")

    sign_in(operator, server)
    operator.reads("A-001 At The Desk", "A-002 Karen Nolan", "A-003 张伟", "A-004 Late Comer")

    operator.press("Pause the line")
    operator.fill("Reason in English", "Fire drill")
    operator.fill("Reason in Chinese", "消防演习")
    operator.press("Pause the line", inside="pausing")
    karen.reads("The line is paused.", "Fire drill", "Your place is kept.", seconds=6)
    wei.reads("排队已暂停。", "消防演习", seconds=6)
    assert karen.title.startswith("Paused · A-002")
    operator.reads("Paused: Fire drill")
    operator.press("Resume")

    # A paused page asks seldom: Karen reloads, Wei lets it be.
    karen.reload()
    karen.reads("Almost your turn.", "1 person is ahead of you.")
    operator.press("Call A-003 now")
    operator.reads("operator called A-003")
    resumed = time.monotonic()

    operator.press("Freeze view")
    late.do("leave")
    chromium.expect("409 (Conflict)")
    operator.press("Call A-004 now")
    operator.reads("This changed in the meantime, so nothing was done. Please look again.")
    operator.press("Freeze view")

    assert karen.state == "waiting"
    operator.press("More for A-002")
    operator.fill("Reason in English", "Wrong desk, please go to room 4")
    operator.press("Remove A-002")
    karen.sees("removed")
    karen.reads("An administrator removed your number.", "Wrong desk, please go to room 4")
    operator.waits_for("the row to go", lambda: operator.count("tr[data-number='2']") == 0)

    operator.press("Sign out")
    operator.go("/admin/lines/desk")
    operator.sees("sign-in")
    wei.sees("called", 26 - (time.monotonic() - resumed))


def test_the_chinese_page_is_chinese_and_draws_its_characters(serve: Serve, somebody: Somebody):
    server = serve(settings=room(**ONE_BY_ONE))
    Program(server, "At The Desk").go_to_the_desk()
    person = somebody(server, lang="zh-CN", screen=PHONE)
    person.go("/lines/desk")
    assert person.script("return document.documentElement.lang") == "zh-Hans"
    assert person.title == "账号自助台"
    person.reads("取号。", "您要办理什么？", "查询电话号码", "修改密码")
    take(person, "李小明", "修改密码")
    assert person.title == "前面 1 人 · A-002 · 账号自助台"
    person.reads("快到您了。 前面还有 1 人。", "取号时排第 2 位。", "等候时可以先准备")
    drawn = person.script(
        """
        const draw = (text) => {
          const canvas = Object.assign(document.createElement("canvas"), {width: 40, height: 40});
          const pen = canvas.getContext("2d");
          pen.font = "32px " + getComputedStyle(document.body).fontFamily;
          pen.fillText(text, 2, 34);
          return canvas.toDataURL();
        };
        return [draw("号"), draw("您")];
        """
    )
    assert drawn[0] != drawn[1], "without a Chinese font every character is the same empty box"

    person.press("English")
    person.sees("waiting")
    assert person.script("return document.documentElement.lang") == "en"
    assert person.title == "1 ahead · A-002 · Account desk"


def test_everything_works_without_javascript(serve: Serve, somebody: Somebody):
    server = serve(settings=room(**ONE_BY_ONE))
    desk = Program(server, "At The Desk").go_to_the_desk()
    person = somebody(server, scripts=False)
    assert take(person, "Karen Nolan") == "A-002"
    person.reads("This page reloads every 20 seconds.", "Stop reloading")
    desk.finish()
    person.sees("called", 25)
    person.press(HERE)
    person.sees("serving")
    person.fill("Account or full name", "张伟")
    person.press(LOOK_UP, inside="desk")
    person.sees("job")
    time.sleep(1)
    person.reload()
    person.sees("done")
    person.reads("Here is what the directory says.", "zhangwei@corp.example")


def test_changing_a_password_keeps_it_to_itself(
    serve: Serve, chromium: Browser, somebody: Somebody
):
    """Wrong input keeps everything but passwords; what was typed is nowhere afterwards."""
    server = serve(settings=room())
    person = somebody(server, screen=PHONE)
    take(person, "Karen Nolan", "Change your password")
    person.press(HERE)
    person.sees("serving")
    person.reads("At least 12 characters", "None of your last 5 passwords")

    old, new = "demo-pass-1", "correct-horse-7"
    person.fill("Account", "knolan")
    person.fill("Current password", old)
    person.fill("New password", new)
    person.fill("New password again", new + "x")
    chromium.expect("400 (Bad Request)", "422 (")
    person.press("Change your password", inside="desk")
    person.reads("Please look at these again", "The two entries are not the same.")
    assert person.title.startswith("Error: At the desk · A-001")
    person.waits_for(
        "focus on the summary",
        lambda: person.script("return document.activeElement.id") == "errors",
    )
    assert person.value("Account") == "knolan"
    assert person.value("Current password") == ""
    assert old not in person.source and new not in person.source
    person.press("New password again…", inside="errors")
    assert person.script("return document.activeElement.name") == "new_password_again"
    described = person.script("return document.activeElement.getAttribute('aria-describedby')")
    assert person.read(f"#{described.split()[-1]}") == "The two entries are not the same."
    assert person.script("return document.activeElement.getAttribute('aria-invalid')") == "true"

    person.fill("Current password", old)
    person.fill("New password", new)
    person.fill("New password again", new)
    person.press("Show New password", inside="desk")
    assert person.count("input[name=new_password][type=text]") == 1
    person.press("Change your password", inside="desk")
    person.sees("done")
    person.reads("Your password was changed. Use the new one from now on.", "Reference:")
    seen = [person.path, person.source, person.script("return JSON.stringify(localStorage)")]
    for _ in range(int(person.script("return history.length")) - 1):
        person.back()
        seen += [person.path, person.source]
    assert not [place for place in seen if old in place or new in place]
    assert old not in server.log and new not in server.log


def test_a_form_without_a_turn_leads_back_to_the_queue_page(
    serve: Serve, chromium: Browser, somebody: Somebody
):
    server = serve(settings=room(**ONE_BY_ONE))
    stranger = somebody(server).go("/lines/desk/desk")
    stranger.sees("none")
    assert stranger.path == "/lines/desk"

    Program(server, "At The Desk").go_to_the_desk()
    person = somebody(server)
    take(person, "Karen Nolan")
    person.go("/lines/desk/desk")
    person.sees("waiting")
    assert person.path == "/lines/desk"
    assert person.count("form#desk") == 0

    chromium.expect("409 (Conflict)")
    person.script(
        """
        const form = Object.assign(document.createElement("form"),
          {method: "post", action: "/lines/desk/desk"});
        form.append(Object.assign(document.createElement("input"),
          {name: "account", value: "knolan"}));
        document.body.append(form);
        HTMLFormElement.prototype.submit.call(form);
        """
    )
    person.reads("It is not your turn at the desk, so nothing was sent.")
    assert person.state == "waiting"
    assert ask_as(person)["job"] is None


def test_a_stopped_server_is_said_and_the_place_is_there_again(
    serve: Serve, chromium: Browser, somebody: Somebody
):
    """The page keeps what it knew and says that it is not live; so does the wall, dimmed.

    The wall shows numbers and no names.
    """
    server = serve(settings=room(**ONE_BY_ONE))
    Program(server, "At The Desk").go_to_the_desk()
    person, wall = somebody(server), somebody(server)
    wall.go("/lines/desk/wall")
    take(person, "Karen Nolan")
    Program(server, "张伟")
    wall.reads("A-001", "A-002", "A-003", "Being served", "正在办理", "Live", "实时")
    assert not any(name in wall.source for name in ("At The", "Karen", "Nolan", "张"))

    chromium.expect("net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET")
    server.stop()
    stopped = time.monotonic()
    person.reads("Connection lost. Trying again in", "Your place is kept until", seconds=10)
    person.reads("A-002", "1 person is ahead of you.")
    assert person.state == "waiting"
    assert person.title.startswith("(…) 1 ahead · A-002")

    left = 18 - (time.monotonic() - stopped)
    wall.reads("No connection. These numbers may be old.", seconds=left)
    assert float(wall.script("return getComputedStyle(document.getElementById('now')).opacity")) < 1

    server.start()
    person.press("Try now")
    person.reads("Connected again.")
    assert number(person) == "A-002"
    person.reads("1 person is ahead of you.")
    assert ask_as(person)["ticket"]["ahead"] == 1
    wall.waits_for("a live wall", lambda: "These numbers may be old." not in wall.text, seconds=10)


def test_people_ahead_become_fewer_and_the_countdown_is_the_servers(
    serve: Serve, somebody: Somebody
):
    """Nothing is reloaded; and a device whose clock is two hours wrong counts rightly."""
    server = serve(settings=room(**ONE_BY_ONE))
    desk = Program(server, "At The Desk").go_to_the_desk()
    karen, sara = somebody(server), somebody(server, clock_ahead_seconds=7200)
    take(karen, "Karen Nolan")
    take(sara, "Sara Duarte")
    assert sara.title.startswith("2 ahead · A-003")
    for person in (karen, sara):
        person.script("window.neverReloaded = true")

    desk.finish()
    karen.sees("called")
    assert karen.title.startswith("(!) Your turn · A-002")
    sara.reads("1 person is ahead of you.")
    assert sara.title.startswith("1 ahead · A-003")
    assert sara.script("return document.querySelector('progress').value") == 1

    karen.press("Leave the line")
    karen.press("Leave the line", inside="leaving")
    karen.sees("left")
    sara.sees("called")
    assert sara.title.startswith("(!) Your turn · A-003")
    for _ in range(3):
        # Both clocks run while we ask; so the server's is asked before and after.
        before = ask_as(sara)["ticket"]["answer"]["left_in"]
        minutes, seconds = map(int, sara.read("[data-left=answer]").split(":"))
        after = ask_as(sara)["ticket"]["answer"]["left_in"]
        # The server says whole seconds that are left, the page counts the last one down as 1.
        assert after - 1 <= minutes * 60 + seconds <= before + 2
        time.sleep(0.7)
    sara.press("I need more time")
    sara.reads("Extended. You can ask 9 more times.")
    for person in (karen, sara):
        assert person.script("return window.neverReloaded") is True
