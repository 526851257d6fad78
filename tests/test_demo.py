"""The demo directory and the shared form check: what people can ask, and what is refused."""

import asyncio
from random import Random

import pytest

from downstream.adapter import COMMON_MESSAGES, FORM_MESSAGES, Adapter, Context, check, clean
from downstream.demo import ACTIONS, FIRST_PASSWORD, MESSAGES, PEOPLE, DemoAdapter
from queue_backend.work.job import Job, JobState

LOOK_UP, CHANGE, UPDATE, UNLOCK = ACTIONS.values()


async def at_once(_seconds):
    pass


@pytest.fixture
def demo():
    return DemoAdapter(Random(7), sleep=at_once)


async def no_progress(_step):
    pass


def a_job(action, **fields):
    return Job(
        id=1,
        line="desk",
        state=JobState.RESERVED,
        task=action,
        args={"fields": fields},
        pri=1,
        due=0.0,
        holder="test",
        attempt=1,
        fails=0,
        key="7-1",
        step="running",
        stop_asked=False,
        result=None,
        error=None,
        put_at=0.0,
        taken_at=0.0,
        done_at=None,
    )


def a_context(cancelled=False, **secrets):
    return Context(
        slot=1,
        deadline=30.0,
        cancelled=lambda: cancelled,
        progress=no_progress,
        secret=secrets.pop,
    )


async def ask(demo, action, cancelled=False, password="", new_password="", **fields):
    context = a_context(cancelled, password=password, new_password=new_password)
    outcome = await demo.execute(a_job(action, **fields), context)
    assert outcome.code in MESSAGES
    return outcome


async def change(demo, password, new_password, account="knolan"):
    outcome = await ask(
        demo, "change-password", account=account, password=password, new_password=new_password
    )
    return outcome.kind, outcome.code


# What it offers


def test_the_demo_is_an_adapter_with_the_four_actions():
    adapter: Adapter = DemoAdapter(Random(1))
    assert list(adapter.actions) == [
        "look-up-phone",
        "change-password",
        "update-details",
        "unlock",
    ]
    assert [spec.name for spec in adapter.actions.values() if not spec.idempotent] == [
        "change-password"
    ]
    assert set(COMMON_MESSAGES) <= set(adapter.messages)


def test_a_dozen_people_with_chinese_and_other_names():
    assert len(PEOPLE) == 12 == len({person.account for person in PEOPLE})
    names = {person.account: person.name for person in PEOPLE}
    assert names["zhangwei"] == "张伟" and names["knolan"] == "Karen Nolan"


# Looking up


@pytest.mark.parametrize("asked", ["zhangwei", "ZhangWei", "张伟"])
async def test_a_colleague_is_found_by_account_or_name(demo, asked):
    outcome = await ask(demo, "look-up-phone", account=asked)
    assert (outcome.kind, outcome.code) == ("done", "found")
    assert outcome.fields == {
        "name": "张伟",
        "phone": "2041",
        "mobile": "+86 139 0110 2041",
        "department": "财务部",
        "mail": "zhangwei@corp.example",
    }
    assert list(outcome.fields) == [shown.name for shown in LOOK_UP.result]


async def test_nobody_of_this_name_is_a_refusal(demo):
    outcome = await ask(demo, "look-up-phone", account="nobody")
    assert (outcome.kind, outcome.code) == ("rejected", "account-unknown")


# Passwords


async def test_a_changed_password_is_the_one_that_counts(demo):
    assert await change(demo, FIRST_PASSWORD, "a-new-one-2345") == ("done", "password-changed")
    assert await change(demo, FIRST_PASSWORD, "another-one-2345") == (
        "rejected",
        "password-wrong",
    )
    assert await change(demo, "a-new-one-2345", "another-one-2345") == (
        "done",
        "password-changed",
    )


@pytest.mark.parametrize(
    ("new_password", "code"),
    [
        ("short-1", "policy-length"),
        ("only letters here", "policy-characters"),
        ("123456789012", "policy-characters"),
    ],
)
async def test_a_new_password_must_keep_the_rules(demo, new_password, code):
    assert await change(demo, FIRST_PASSWORD, new_password) == ("rejected", code)


async def test_none_of_the_last_five_passwords_may_come_again(demo):
    current = FIRST_PASSWORD
    for number in range(5):
        assert (await change(demo, current, f"password-no-{number}"))[0] == "done"
        current = f"password-no-{number}"
    for number in range(5):
        assert await change(demo, current, f"password-no-{number}") == (
            "rejected",
            "policy-history",
        )
    assert (await change(demo, current, "password-no-5"))[0] == "done"
    assert (await change(demo, "password-no-5", "password-no-0"))[0] == "done"


async def test_three_wrong_passwords_lock_the_account_until_it_is_unlocked(demo):
    new = "a-new-one-2345"
    assert await change(demo, "wrong", new) == ("rejected", "password-wrong")
    assert await change(demo, "wrong", new) == ("rejected", "password-wrong")
    assert await change(demo, "wrong", new) == ("rejected", "account-locked")
    assert await change(demo, FIRST_PASSWORD, new) == ("rejected", "account-locked")
    unlocked = await ask(demo, "unlock", account="knolan")
    assert (unlocked.kind, unlocked.code) == ("done", "unlocked")
    assert unlocked.fields == {"name": "Karen Nolan"}
    assert (await change(demo, FIRST_PASSWORD, new))[0] == "done"


async def test_a_right_password_forgives_the_wrong_ones(demo):
    for _ in range(2):
        await change(demo, "wrong", "a-new-one-2345")
    await change(demo, FIRST_PASSWORD, "a-new-one-2345")
    assert (await change(demo, "wrong", "another-one-2345"))[1] == "password-wrong"


async def test_an_unknown_account_and_a_wrong_password_read_the_same(demo):
    assert await change(demo, "wrong", "a-new-one-2345", account="nobody") == (
        "rejected",
        "password-wrong",
    )


async def test_unlocking_what_was_not_locked_says_so(demo):
    assert (await ask(demo, "unlock", account="knolan")).code == "not-locked"
    assert (await ask(demo, "unlock", account="nobody")).code == "account-unknown"


@pytest.mark.parametrize(
    ("was_sent", "answer"),
    [(True, ("done", "password-changed")), (False, ("rejected", "password-unchanged"))],
)
async def test_a_lost_answer_about_a_password_is_found_out_without_a_try(demo, was_sent, answer):
    if was_sent:
        await change(demo, FIRST_PASSWORD, "a-new-one-2345")
    context = a_context(cancelled=True, password=FIRST_PASSWORD, new_password="a-new-one-2345")
    outcome = await demo.reconcile(a_job("change-password", account="knolan"), context)
    assert (outcome.kind, outcome.code) == answer


async def test_a_lost_answer_about_anything_else_is_asked_for_again(demo):
    outcome = await demo.reconcile(a_job("look-up-phone", account="knolan"), a_context())
    assert outcome.code == "found"


# Details


async def test_only_what_is_filled_in_changes(demo):
    outcome = await ask(demo, "update-details", account="knolan", phone="3013", mobile="")
    assert outcome.kind == "done"
    assert outcome.fields == {
        "name": "Karen Nolan",
        "phone": "3013",
        "mobile": "+353 87 555 0134",
        "office": "D-101",
    }
    found = await ask(demo, "look-up-phone", account="Karen Nolan")
    assert found.fields["phone"] == "3013"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"account": "knolan"}, "nothing-to-change"),
        ({"account": "nobody", "phone": "3013"}, "account-unknown"),
        ({"account": "knolan", "phone": "1 - 2"}, "phone-format"),
    ],
)
async def test_details_the_directory_does_not_take(demo, fields, code):
    outcome = await ask(demo, "update-details", **fields)
    assert (outcome.kind, outcome.code) == ("rejected", code)


# Slowness


async def test_every_call_takes_its_seconds():
    waited = []

    async def note(seconds):
        waited.append(seconds)

    demo = DemoAdapter(Random(7), latency_seconds=(2.0, 6.0), sleep=note)
    for _ in range(200):
        await ask(demo, "look-up-phone", account="knolan")
    assert 2.0 <= min(waited) < 2.5 and 5.0 < max(waited) <= 6.0


async def test_a_third_call_at_once_breaks_it_and_is_remembered():
    go_on = asyncio.Event()

    async def wait(_seconds):
        await go_on.wait()

    demo = DemoAdapter(Random(7), sleep=wait)
    calls = [asyncio.ensure_future(ask(demo, "look-up-phone", account="knolan")) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert demo.peak == 3
    go_on.set()
    outcomes = await asyncio.gather(*calls)
    assert sorted(outcome.kind for outcome in outcomes) == ["broken", "done", "done"]
    assert (await demo.health()).ok and demo.calls == 0


async def test_a_call_nobody_wants_any_more_changes_nothing(demo):
    outcome = await ask(demo, "update-details", cancelled=True, account="knolan", phone="3013")
    assert (outcome.kind, outcome.code) == ("rejected", "cancelled")
    assert (await ask(demo, "look-up-phone", account="knolan")).fields["phone"] == "3012"


# The form


GOOD_CHANGE = {
    "account": " knolan ",
    "password": " kept as typed ",
    "new_password": "a-new-one-2345",
    "new_password_again": "a-new-one-2345",
}


def test_a_good_form_is_cleaned_and_divided_into_plain_and_secret():
    assert check(CHANGE, GOOD_CHANGE) == {}
    plain, secret = CHANGE.divide(clean(CHANGE, {**GOOD_CHANGE, "other": "dropped"}))
    assert plain == {"account": "knolan"}
    assert secret == {"password": " kept as typed ", "new_password": "a-new-one-2345"}


@pytest.mark.parametrize(
    ("spec", "field", "value", "code"),
    [
        (LOOK_UP, "account", "", "required"),
        (LOOK_UP, "account", "   ", "required"),
        (LOOK_UP, "account", None, "required"),
        (LOOK_UP, "account", 7, "not-text"),
        (LOOK_UP, "account", ["knolan"], "not-text"),
        (LOOK_UP, "account", "x" * 65, "too-long"),
        (LOOK_UP, "account", "kno\x00lan", "bad-characters"),
        (LOOK_UP, "account", "kno\u202elan", "bad-characters"),
        (UNLOCK, "account", "*)(uid=*", "bad-account"),
        (UNLOCK, "account", "two words", "bad-account"),
        (UPDATE, "phone", "call me", "bad-phone"),
        (UPDATE, "phone", "1" * 33, "too-long"),
        (CHANGE, "new_password", "short-1", "too-short"),
        (CHANGE, "new_password", "only letters here", "needs-digit"),
        (CHANGE, "new_password", "1234-5678-9012", "needs-letter"),
        (CHANGE, "new_password_again", "a-new-one-2346", "passwords-differ"),
        (CHANGE, "new_password_again", "", "required"),
    ],
)
def test_what_is_wrong_with_a_form_is_said_at_its_field(spec, field, value, code):
    good = {
        "look-up-phone": {"account": "knolan"},
        "unlock": {"account": "knolan"},
        "update-details": {"account": "knolan", "phone": "+49 (30) 1234-56"},
        "change-password": GOOD_CHANGE,
    }[spec.name]
    assert check(spec, good) == {}
    assert check(spec, {**good, field: value})[field] == code
    assert code in FORM_MESSAGES


def test_what_may_stay_empty_may_be_missing():
    assert check(UPDATE, {"account": "knolan"}) == {}
    assert UPDATE.divide(clean(UPDATE, {"account": "knolan", "phone": " "})) == (
        {"account": "knolan"},
        {},
    )
