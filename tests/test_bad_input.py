"""What people and programs get wrong, and how it is answered: with a stable code, in a sentence
of their language, and with nothing lost."""

import ast
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from handlers.languages import Languages
from handlers.problems import SENTENCES, STATUSES, problem_of
from queue_backend.errors import BadTicket
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import TicketSigner
from tests.front import a_room, is_chinese

ROOT = Path(__file__).resolve().parent.parent

LANGUAGES = ("en", "zh-Hans")


@pytest_asyncio.fixture
async def room(tmp_path, clock):
    async with a_room(tmp_path, clock, Rules(max_waiting=5)) as room:
        yield room


@pytest.fixture
def room_languages():
    return Languages(ROOT / "translations")


def asked_for(**said: object) -> dict[str, object]:
    return {
        "name": "Karen Nolan",
        "service": "look-up-phone",
        "request_id": secrets.token_hex(8),
        **said,
    }


def refused(answer, status: int, code: str, lang: str) -> None:
    """A problem document with `code`, and a sentence in `lang`."""
    assert (answer.status, answer.json["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json["status"] == status
    assert answer.json["type"] == f"/problems/{code}"
    for sentence in (answer.json["title"], answer.json["detail"]):
        assert is_chinese(sentence) == (lang == "zh-Hans"), sentence
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) >= 1


# Names

BAD_NAMES = [
    ("", "name-empty"),
    ("   ", "name-empty"),
    ("x" * 41, "name-long"),
    ("张" * 41, "name-long"),
    ("Ka\x00ren", "name-characters"),
    ("Ka\x1bren", "name-characters"),
    ("Ka\nren", "name-characters"),
    ("Ka\x85ren", "name-characters"),
    ("Ka\u202eren", "name-characters"),
    ("Ka\u2066ren", "name-characters"),
    ("Ka\u200bren", "name-characters"),
    ("Ka\ufeffren", "name-characters"),
    ("Ka\ud800ren", "name-characters"),
    ("<b>Karen</b>", "name-characters"),
    ("<script>alert(1)</script>", "name-characters"),
    (None, "name-type"),
    (42, "name-type"),
    (["Karen"], "name-type"),
]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(("name", "code"), BAD_NAMES, ids=lambda value: ascii(value)[:24])
async def test_a_bad_name_is_refused_with_its_code(room, lang, name, code):
    visitor = room.browser(lang)
    answer = await visitor.send("/api/lines/desk/tickets", asked_for(name=name))
    refused(answer, 400, code, lang)
    assert answer.json["field"] == "name"
    assert room.line.public().waiting == 0


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_page_says_what_is_wrong_with_a_name_and_keeps_what_was_typed(room, lang):
    visitor = room.browser(lang)
    answer = await visitor.post(
        "/lines/desk/take", name="x" * 41, service="unlock", request_id="12345678"
    )
    assert answer.status == 400
    sentence = room.parts.languages.gettext(lang)(SENTENCES["name-long"])
    assert sentence in answer.text
    assert 'value="' + "x" * 41 in answer.text
    assert 'value="12345678"' in answer.text
    assert 'value="unlock" required checked' in answer.text


async def test_html_in_a_name_is_shown_as_text_on_a_page(room):
    answer = await room.browser().post(
        "/lines/desk/take", name="<script>x</script>", service="unlock", request_id="12345678"
    )
    assert answer.status == 400
    assert "<script>x" not in answer.text
    assert "&lt;script&gt;x" in answer.text


async def test_a_control_character_in_a_form_is_refused_and_not_made_a_blank(room):
    answer = await room.browser().post(
        "/lines/desk/take", name="Karen\x07Nolan", service="unlock", request_id="12345678"
    )
    assert answer.status == 400
    assert room.line.public().waiting == 0


async def test_forty_characters_of_any_script_are_a_name(room):
    for name in ("x" * 40, "张" * 40, "Ana María Núñez", "Зоя", "李 小明"):
        answer = await room.browser().send("/api/lines/desk/tickets", asked_for(name=name))
        assert answer.status == 201, name


# Lines, services, actions


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/lines/nowhere"),
        ("GET", "/api/lines/nowhere/ticket"),
        ("POST", "/api/lines/nowhere/tickets"),
        ("POST", "/api/lines/nowhere/ticket/confirm"),
        ("POST", "/api/lines/nowhere/ticket/job"),
    ],
)
async def test_an_unknown_line_is_not_found(room, lang, method, path):
    refused(await room.browser(lang).ask(method, path), 404, "line-unknown", lang)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_an_unknown_line_is_a_page_in_the_persons_language(room, lang):
    for path in ("/lines/nowhere", "/lines/nowhere/wall", "/lines/nowhere/desk"):
        answer = await room.browser(lang).get(path)
        assert answer.status == 404
        assert f'<html lang="{lang}"' in answer.text
        assert room.parts.languages.gettext(lang)(SENTENCES["line-unknown"]) in answer.text


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("service", ["no-such-service", "", 5, None, ["unlock"]])
async def test_an_unknown_service_is_refused(room, lang, service):
    answer = await room.browser(lang).send("/api/lines/desk/tickets", asked_for(service=service))
    refused(answer, 404, "service-unknown", lang)
    assert room.line.public().waiting == 0


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("request_id", ["", "short", "x" * 65, "with space", "ümlaut-id", 12345678])
async def test_a_request_without_an_id_of_its_own_is_refused(room, lang, request_id):
    answer = await room.browser(lang).send(
        "/api/lines/desk/tickets", asked_for(request_id=request_id)
    )
    refused(answer, 400, "request-id", lang)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_an_unknown_verb_is_not_found(room, lang):
    visitor = room.browser(lang)
    await visitor.take()
    refused(await visitor.do("jump-the-queue"), 404, "action-unknown", lang)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_an_unknown_or_another_action_at_the_desk_is_refused(room, lang):
    visitor = room.browser(lang)
    await visitor.reach_the_desk("look-up-phone")
    job = "/api/lines/desk/ticket/job"
    refused(
        await visitor.send(job, {"action": "format-disk", "fields": {}}),
        404,
        "action-unknown",
        lang,
    )
    refused(await visitor.send(job, {"action": "unlock", "fields": {}}), 400, "action-other", lang)
    refused(await visitor.send(job, {"action": 7}), 400, "action-type", lang)
    refused(await visitor.send(job, {"fields": ["knolan"]}), 400, "fields-type", lang)
    assert (await visitor.ticket())["state"] == "serving"
    assert (await room.jobs.stats()).ready == 0


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_each_field_of_a_form_has_its_own_code_and_sentence(room, lang):
    visitor = room.browser(lang)
    await visitor.reach_the_desk("change-password")
    answer = await visitor.submit(
        account="a b", password="", new_password="short1", new_password_again="other"
    )
    refused(answer, 400, "bad-account", lang)
    errors = answer.json["errors"]
    assert {name: error["code"] for name, error in errors.items()} == {
        "account": "bad-account",
        "password": "required",
        "new_password": "too-short",
        "new_password_again": "passwords-differ",
    }
    assert all(is_chinese(error["detail"]) == (lang != "en") for error in errors.values())
    assert (await visitor.ticket())["state"] == "serving"


@pytest.mark.parametrize("value", [5, None, ["x"], {"a": 1}, True])
async def test_a_field_that_is_not_text_is_refused(room, value):
    visitor = room.browser()
    await visitor.reach_the_desk()
    answer = await visitor.send("/api/lines/desk/ticket/job", {"fields": {"account": value}})
    assert answer.status == 400
    assert (await room.jobs.stats()).ready == 0


# Bodies


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "json-malformed"),
        (b"not json", "json-malformed"),
        (b"\xff\xfe", "json-malformed"),
        (b'{"name": "\xff"}', "json-malformed"),
        (b"[" * 30_000, "json-malformed"),
        (b"[]", "json-not-object"),
        (b'"name"', "json-not-object"),
        (b"null", "json-not-object"),
        (b"17", "json-not-object"),
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_what_is_not_a_json_object_is_refused(room, lang, body, code):
    answer = await room.browser(lang).ask(
        "POST", "/api/lines/desk/tickets", body, {"Content-Type": "application/json"}
    )
    refused(answer, 400, code, lang)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_another_kind_of_content_is_refused(room, lang):
    visitor = room.browser(lang)
    body = json.dumps(asked_for()).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await visitor.ask("POST", "/api/lines/desk/tickets", body, {"Content-Type": kind})
        refused(answer, 415, "content-type-unknown", lang)
    page = await visitor.send("/lines/desk/take", asked_for())
    assert page.status == 415
    assert room.line.public().waiting == 0


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("size", [65_537, 100_000, 1_000_000])
async def test_a_body_over_64_kib_is_refused_in_words(room, lang, size):
    body = json.dumps(asked_for(name="x" * size)).encode()
    visitor = room.browser(lang)
    for path in ("/api/lines/desk/tickets", "/api/lines/desk/ticket/confirm", "/api/nowhere"):
        answer = await visitor.ask("POST", path, body, {"Content-Type": "application/json"})
        refused(answer, 413, "body-too-large", lang)
    page = await visitor.ask(
        "POST", "/lines/desk/take", body, {"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert page.status == 413
    assert f'<html lang="{lang}"' in page.text


async def test_a_body_of_64_kib_is_read(room):
    said = asked_for(note="")
    said["note"] = "x" * (65_536 - len(json.dumps(said)))
    answer = await room.browser().send("/api/lines/desk/tickets", said)
    assert answer.status == 201


async def test_keys_that_nobody_asked_for_are_let_be(room):
    answer = await room.browser().send(
        "/api/lines/desk/tickets", asked_for(state="serving", number=1, ahead=0)
    )
    assert answer.status == 201
    assert answer.json["ticket"]["state"] == "waiting"


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_method_that_an_address_does_not_take_is_told_which_it_takes(room, lang):
    visitor = room.browser(lang)
    for method, path, allowed in (
        ("GET", "/api/lines/desk/tickets", "POST"),
        ("GET", "/api/lines/desk/ticket/leave", "POST"),
        ("POST", "/api/lines/desk/ticket", "GET, HEAD"),
        ("DELETE", "/api/lines/desk/ticket", "GET, HEAD"),
        ("OPTIONS", "/api/lines", "GET, HEAD"),
    ):
        answer = await visitor.ask(method, path)
        refused(answer, 405, "method-unknown", lang)
        assert answer.headers["Allow"] == allowed
    page = await visitor.get("/lines/desk/leave")
    assert (page.status, page.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_an_unknown_address_is_not_found(room, lang):
    visitor = room.browser(lang)
    refused(await visitor.get("/api/line"), 404, "address-unknown", lang)
    for path in ("/nowhere", "/lines/desk/a/b", "/static/nowhere.js", "/static/../app.py"):
        page = await visitor.get(path)
        assert page.status in (403, 404), path
        assert f'<html lang="{lang}"' in page.text


# Tickets


def tampered(token: str) -> str:
    last = token[-1]
    return token[:-1] + ("0" if last != "0" else "1")


def tickets(room, token: str) -> dict[str, tuple[str, str]]:
    """Bad papers by name, each with the code of its refusal."""
    ticket = room.signer.read(token, "desk")
    elsewhere = TicketSigner({1: "another secret of 32 bytes or so"}, room.clock, 86_400)
    other_line = type(ticket)(
        **{field: getattr(ticket, field) for field in ticket.__slots__} | {"line": "other"}
    )
    return {
        "forged": (tampered(token), "ticket-forged"),
        "signed by another": (elsewhere.sign(ticket), "ticket-forged"),
        "of another line": (room.signer.sign(other_line), "ticket-forged"),
        "of a dropped key": (
            TicketSigner({9: "k" * 32}, room.clock, 86_400).sign(ticket),
            "ticket-expired",
        ),
        **{
            what: (paper, code_of(room, paper))
            for what, paper in {
                "truncated": token[: len(token) // 2],
                "of one character": "2",
                "nonsense": "%F0%9F|||::",
                "far too long": token * 20,
            }.items()
        },
    }


def code_of(room, paper: str) -> str:
    with pytest.raises(BadTicket) as refusal:
        room.signer.read(paper, "desk")
    return refusal.value.code


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("by_header", [True, False], ids=["header", "cookie"])
async def test_a_bad_ticket_is_refused_with_its_code(room, lang, by_header):
    holder = room.browser()
    await holder.take()
    token = holder.cookies["ticket_desk"]
    for what, (paper, code) in tickets(room, token).items():
        browser = room.browser(lang)
        headers = {"Authorization": f"Ticket {paper}"} if by_header else {}
        if not by_header:
            browser.cookies["ticket_desk"] = paper
        poll = await browser.get("/api/lines/desk/ticket", **headers)
        assert poll.headers["WWW-Authenticate"] == "Ticket", what
        refused(poll, 401, code, lang)
        refused(await browser.send("/api/lines/desk/ticket/leave", **headers), 401, code, lang)
        refused(
            await browser.send("/api/lines/desk/ticket/job", {"fields": {}}, **headers),
            401,
            code,
            lang,
        )
    assert (await holder.ticket())["state"] == "waiting"


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_an_old_ticket_is_refused(room, lang):
    visitor = room.browser(lang)
    await visitor.take()
    room.clock.tick(86_401)
    refused(await visitor.poll(), 401, "ticket-expired", lang)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_ticket_from_the_future_is_refused(room, lang, clock):
    visitor = room.browser(lang)
    await visitor.take()
    clock.set_wall(clock.wall() - 500)
    refused(await visitor.poll(), 401, "ticket-expired", lang)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_page_with_a_bad_ticket_is_lost_and_offers_a_new_number(room, lang):
    holder = room.browser()
    await holder.take()
    for paper, code in tickets(room, holder.cookies["ticket_desk"]).values():
        browser = room.browser(lang)
        browser.cookies["ticket_desk"] = paper
        page = await browser.get("/lines/desk")
        assert page.status == 401
        assert 'data-state="lost"' in page.text
        assert room.parts.languages.gettext(lang)(SENTENCES[code]) in page.text
        assert 'action="/lines/desk/take"' in page.text
        for verb in ("confirm", "leave", "desk", "desk/extend"):
            page = await browser.post(f"/lines/desk/{verb}")
            assert page.status == 401, verb


async def test_whoever_holds_a_bad_ticket_can_take_a_number(room):
    browser = room.browser()
    browser.cookies["ticket_desk"] = "forged"
    assert (await browser.take()).status == 201
    assert (await browser.ticket())["no"] == "A-001"


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_verb_without_a_ticket_is_refused(room, lang):
    visitor = room.browser(lang)
    for verb in ("confirm", "extend", "leave", "undo", "return", "yield", "job", "retry"):
        refused(await visitor.do(verb), 401, "ticket-missing", lang)


async def test_a_second_ticket_for_the_same_browser_is_the_first(room):
    visitor = room.browser()
    first = await visitor.take("Karen Nolan")
    second = await visitor.take("Somebody Else", "unlock")
    assert (first.status, second.status) == (201, 200)
    assert second.json["ticket"] == first.json["ticket"]
    page = await visitor.post(
        "/lines/desk/take", name="Again", service="unlock", request_id="12345678"
    )
    assert page.status == 303
    assert room.line.public().waiting == 1


async def test_the_same_request_sent_twice_is_one_number(room):
    said = asked_for()
    first = await room.browser().send("/api/lines/desk/tickets", said)
    second = await room.browser().send("/api/lines/desk/tickets", said)
    assert first.json["ticket"]["no"] == second.json["ticket"]["no"]
    assert room.line.public().waiting == 1


# Not now


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_form_without_a_turn_queues_nothing(room, lang):
    visitor = room.browser(lang)
    await visitor.take()
    refused(await visitor.submit(account="knolan"), 409, "no-turn", lang)
    page = await visitor.post("/lines/desk/desk", account="knolan")
    assert page.status == 409
    assert 'data-state="waiting"' in page.text
    assert room.parts.languages.gettext(lang)(SENTENCES["no-turn"]) in page.text
    stats = await room.jobs.stats()
    assert (stats.ready, stats.reserved, stats.delayed, stats.buried) == (0, 0, 0, 0)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_verb_in_the_wrong_state_says_the_state(room, lang):
    visitor = room.browser(lang)
    await visitor.take()
    for verb, code in (
        ("confirm", "not-called"),
        ("extend", "not-called"),
        ("return", "not-aside"),
        ("yield", "nobody-behind"),
        ("undo", "undo-over"),
        ("retry", "not-retryable"),
    ):
        answer = await visitor.do(verb)
        refused(answer, 409, code, lang)
    assert (await visitor.do("confirm")).json["state"] == "waiting"


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_press_on_an_old_page_shows_what_is_so_now(room, lang):
    visitor = room.browser(lang)
    await visitor.take()
    page = await visitor.post("/lines/desk/confirm")
    assert page.status == 409
    assert 'data-state="waiting"' in page.text
    assert room.parts.languages.gettext(lang)(SENTENCES["not-called"]) in page.text


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_closed_and_a_draining_line_give_no_numbers(room, lang):
    operator = await room.operator()
    visitor = room.browser(lang)
    for verb, code in (("drain", "line-draining"), ("close", "line-closed")):
        await operator.post(f"/admin/lines/desk/{verb}")
        refused(await visitor.take(), 409, code, lang)
        page = await visitor.post(
            "/lines/desk/take", name="Li", service="unlock", request_id="12345678"
        )
        assert page.status == 409


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_a_full_line_says_when_to_try_again(room, lang):
    for _ in range(5):
        await room.browser().take()
    visitor = room.browser(lang)
    refused(await visitor.take(), 503, "line-full", lang)
    page = await visitor.post(
        "/lines/desk/take", name="Li", service="unlock", request_id="12345678"
    )
    assert page.status == 503
    assert int(page.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_an_outage_is_told_as_one_and_never_as_an_empty_line(room, lang):
    program, visitor = room.browser(lang), room.browser(lang)
    await program.take()
    await visitor.take()
    room.database.close()
    refused(await program.do("leave"), 503, "database-unavailable", lang)
    page = await visitor.post("/lines/desk/leave")
    assert page.status == 503
    assert room.parts.languages.gettext(lang)(SENTENCES["database-unavailable"]) in page.text


# Other sites


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://sibling.example"},
    ],
    ids=str,
)
async def test_another_site_changes_nothing(room, lang, headers):
    visitor = room.browser(lang)
    await visitor.take()
    answer = await visitor.send("/api/lines/desk/ticket/leave", **headers)
    refused(answer, 403, "origin-foreign", lang)
    assert (await visitor.ticket())["state"] == "waiting"


async def test_once_the_public_address_is_known_no_other_is_answered(tmp_path, clock):
    async with a_room(
        tmp_path, clock, public_url="http://desk.example", allowed_hosts=frozenset({"desk"})
    ) as room:
        visitor = room.browser()
        await visitor.take()
        for host in ("desk.example", "desk.example:8888", "desk", "127.0.0.1", "localhost:80"):
            assert (await visitor.get("/api/lines", Host=host)).status == 200, host
            assert (await visitor.get("/api/lines/desk/ticket", Host=host)).status == 200, host
        for path in ("/api/lines", "/api/lines/desk/ticket", "/lines/desk", "/admin"):
            answer = await visitor.get(path, Host="evil.example")
            assert answer.status == 421, path
        refused(await visitor.get("/api/lines", Host="evil.example"), 421, "host-foreign", "en")


async def test_nobody_is_sent_to_another_site(room):
    visitor = room.browser()
    for back in (
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "",
    ):
        answer = await visitor.post("/language", lang="en", back=back)
        assert (answer.status, answer.leads_to) == (303, "/"), back
    answer = await visitor.post("/language", lang="en", back="/lines/desk?still=1")
    assert answer.leads_to == "/lines/desk?still=1"


# The table


def raised_codes() -> Iterator[tuple[str, str]]:
    """Every code that the product raises, as it is written."""
    kinds = {kind.__name__ for kind in STATUSES} | {"HttpRefusal"}
    for floor in ("queue_backend/people", "queue_backend/work", "handlers", "downstream"):
        for path in (ROOT / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id not in kinds or node.func.id == "Unsupported":
                    continue
                for argument in node.args[:2]:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield argument.value, f"{path.name}:{node.lineno}"
                        break


def test_every_code_that_is_raised_has_a_sentence():
    # Between desk and worker, or to who writes a program; no person is there to read it.
    told_to_nobody = {"sealed-unreadable", "bad-arguments", "not-json", "out-of-range"}
    missing = {
        code: where for code, where in raised_codes() if code not in {*SENTENCES, *told_to_nobody}
    }
    assert not missing


def test_every_sentence_is_there_in_both_languages(room_languages):
    chinese = room_languages.gettext("zh-Hans")
    for code, sentence in SENTENCES.items():
        assert is_chinese(chinese(sentence)), code
        assert not is_chinese(room_languages.gettext("en")(sentence)), code


def test_an_unforeseen_error_is_told_as_ours():
    problem = problem_of(ZeroDivisionError())
    assert (problem.status, problem.code) == (500, "unexpected")
