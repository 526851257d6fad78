"""The demo: a small directory of a dozen people, as slow and as moody as a real one.

It takes some seconds for everything, refuses what a directory would refuse (a wrong password, one
used before, a phone number that is none), locks an account after three wrong passwords, and
breaks when more than its two slots call at once. It lives in the memory of the worker's process:
with that, all changes are gone and every password is "demo-pass-1" again.

Kept out: everything but the interface of `adapter.py`. A real directory comes the same way.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType

from downstream.adapter import (
    COMMON_MESSAGES,
    N_,
    ActionSpec,
    Context,
    Field,
    Health,
    Outcome,
    ResultField,
    plain_fields,
)
from queue_backend.work.job import Job

FIRST_PASSWORD = "demo-pass-1"
SHORTEST_PASSWORD = 12
PASSWORDS_REMEMBERED = 5
WRONG_PASSWORDS_ALLOWED = 3
SLOTS = 2

_ACCOUNT_FIELD = Field(
    "account",
    N_("Account"),
    "account",
    help=N_("The name you log on with, for example knolan or zhangwei."),
    autocomplete="username",
)

ACTIONS: Mapping[str, ActionSpec] = MappingProxyType(
    {
        action.name: action
        for action in (
            ActionSpec(
                name="look-up-phone",
                title=N_("Look up a phone number"),
                summary=N_("Find the phone number, mobile and department of a colleague."),
                ready=(N_("The account or the full name of the person you are looking for"),),
                fields=(
                    Field(
                        "account",
                        N_("Account or full name"),
                        help=N_("For example knolan, Karen Nolan or 张伟."),
                    ),
                ),
                result=(
                    ResultField("name", N_("Name")),
                    ResultField("phone", N_("Phone")),
                    ResultField("mobile", N_("Mobile")),
                    ResultField("department", N_("Department")),
                    ResultField("mail", N_("Mail")),
                ),
            ),
            ActionSpec(
                name="change-password",
                title=N_("Change your password"),
                summary=N_("Replace the password you log on with by a new one."),
                ready=(
                    N_("Your account name"),
                    N_("Your current password"),
                    N_("A new password that keeps the rules below"),
                ),
                rules=(
                    N_("At least 12 characters"),
                    N_("At least one letter and one digit"),
                    N_("None of your last 5 passwords"),
                ),
                fields=(
                    _ACCOUNT_FIELD,
                    Field(
                        "password",
                        N_("Current password"),
                        "secret",
                        max_length=128,
                        autocomplete="current-password",
                    ),
                    Field(
                        "new_password",
                        N_("New password"),
                        "new-secret",
                        max_length=128,
                        min_length=SHORTEST_PASSWORD,
                        autocomplete="new-password",
                    ),
                    Field(
                        "new_password_again",
                        N_("New password again"),
                        "new-secret",
                        max_length=128,
                        autocomplete="new-password",
                        repeats="new_password",
                    ),
                ),
                idempotent=False,
            ),
            ActionSpec(
                name="update-details",
                title=N_("Update your details"),
                summary=N_("Change your phone number, mobile or office in the directory."),
                ready=(
                    N_("Your account name"),
                    N_("The phone numbers or the office that should stand in the directory"),
                ),
                fields=(
                    _ACCOUNT_FIELD,
                    Field(
                        "phone",
                        N_("Phone"),
                        "phone",
                        required=False,
                        max_length=32,
                        help=N_("Leave empty what should stay as it is."),
                        autocomplete="tel",
                    ),
                    Field(
                        "mobile",
                        N_("Mobile"),
                        "phone",
                        required=False,
                        max_length=32,
                        autocomplete="tel",
                    ),
                    Field("office", N_("Office"), required=False, max_length=40),
                ),
                result=(
                    ResultField("name", N_("Name")),
                    ResultField("phone", N_("Phone")),
                    ResultField("mobile", N_("Mobile")),
                    ResultField("office", N_("Office")),
                ),
            ),
            ActionSpec(
                name="unlock",
                title=N_("Unlock an account"),
                summary=N_("Open an account again that was locked after wrong passwords."),
                ready=(N_("The name of the locked account"),),
                fields=(_ACCOUNT_FIELD,),
                result=(ResultField("name", N_("Name")),),
            ),
        )
    }
)

MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        **COMMON_MESSAGES,
        "found": N_("Here is what the directory says."),
        "password-changed": N_("Your password was changed. Use the new one from now on."),
        "details-updated": N_("The directory was updated."),
        "unlocked": N_("The account is unlocked. You can log on again."),
        "not-locked": N_("The account was not locked; nothing had to be done."),
        "account-unknown": N_("The directory knows nobody of this name."),
        "password-wrong": N_(
            "Account or current password is not right. Three wrong passwords lock the account."
        ),
        "account-locked": N_("The account is locked after wrong passwords. Unlock it first."),
        "policy-length": N_("The new password must have at least 12 characters."),
        "policy-characters": N_("The new password must have at least one letter and one digit."),
        "policy-history": N_("The new password was used before. Choose one you did not have yet."),
        "phone-format": N_("The directory does not take this phone number."),
        "nothing-to-change": N_("Nothing was filled in, so nothing was changed."),
        "password-unchanged": N_(
            "The answer got lost on the way, and your password is still the old one. "
            "Please try again."
        ),
        "too-many-calls": N_("The directory was asked too much at once."),
    }
)


class Refusal(Exception):
    """The directory says no; `code` is a key of MESSAGES."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Person:
    account: str
    name: str
    department: str
    phone: str
    mobile: str
    office: str

    @property
    def mail(self) -> str:
        return f"{self.account}@corp.example"


@dataclass(slots=True)
class Passwords:
    """Digests of one person's passwords, the current one last."""

    used: list[bytes] = field(default_factory=lambda: [_digest(FIRST_PASSWORD)])
    wrong_in_a_row: int = 0

    @property
    def locked(self) -> bool:
        return self.wrong_in_a_row >= WRONG_PASSWORDS_ALLOWED


PEOPLE = (
    Person("zhangwei", "张伟", "财务部", "2041", "+86 139 0110 2041", "A-312"),
    Person("wangfang", "王芳", "人事部", "2077", "+86 138 0021 7745", "A-205"),
    Person("lixiaoming", "李小明", "信息技术部", "2103", "+86 136 5120 0388", "B-110"),
    Person("chenjing", "陈静", "市场部", "2118", "+86 137 1044 9021", "B-221"),
    Person("liuyang", "刘洋", "物流部", "2160", "+86 135 2267 1870", "C-004"),
    Person("ouyangna", "欧阳娜", "法务部", "2189", "+86 133 8090 5512", "A-330"),
    Person("knolan", "Karen Nolan", "Sales", "3012", "+353 87 555 0134", "D-101"),
    Person("mfischer", "Martin Fischer", "Engineering", "3040", "+49 171 555 0198", "D-214"),
    Person("sduarte", "Sofia Duarte", "Customer care", "3055", "+351 91 555 0142", "D-120"),
    Person("jokafor", "Jide Okafor", "Purchasing", "3071", "+234 803 555 0177", "C-118"),
    Person("abennett", "Alice Bennett", "Legal", "3096", "+44 7700 900 456", "A-331"),
    Person("tsorensen", "Tor Sørensen", "Research", "3120", "+47 405 55 012", "B-305"),
)


class Directory:
    """People and their passwords. Its verbs raise Refusal; they are quick and know no waiting."""

    def __init__(self) -> None:
        self._people = {person.account: person for person in PEOPLE}
        self._passwords = {person.account: Passwords() for person in PEOPLE}

    def look_up(self, asked: str) -> Person:
        """By account or by full name, in whichever case it was typed."""
        wanted = asked.casefold()
        for person in self._people.values():
            if wanted in (person.account, person.name.casefold()):
                return person
        raise Refusal("account-unknown")

    def change_password(self, account: str, password: str, new_password: str) -> None:
        # One answer for an unknown account and a wrong password: else the form tells strangers
        # which accounts there are.
        known = self._passwords.get(account.casefold())
        if known is None:
            raise Refusal("password-wrong")
        if known.locked:
            raise Refusal("account-locked")
        if _digest(password) != known.used[-1]:
            known.wrong_in_a_row += 1
            raise Refusal("account-locked" if known.locked else "password-wrong")
        known.wrong_in_a_row = 0
        if len(new_password) < SHORTEST_PASSWORD:
            raise Refusal("policy-length")
        if not re.search(r"\d", new_password) or not any(map(str.isalpha, new_password)):
            raise Refusal("policy-characters")
        if _digest(new_password) in known.used:
            raise Refusal("policy-history")
        known.used = [*known.used, _digest(new_password)][-PASSWORDS_REMEMBERED:]

    def password_is(self, account: str, password: str) -> bool:
        """Asked after an answer was lost; costs no try."""
        known = self._passwords.get(account.casefold())
        return known is not None and known.used[-1] == _digest(password)

    def update_details(self, account: str, details: Mapping[str, str]) -> Person:
        """Change what is filled in, keep the rest."""
        person = self._people.get(account.casefold())
        if person is None:
            raise Refusal("account-unknown")
        filled_in = {
            name: details[name] for name in ("phone", "mobile", "office") if details.get(name)
        }
        if not filled_in:
            raise Refusal("nothing-to-change")
        for name in ("phone", "mobile"):
            if name in filled_in and not 3 <= sum(map(str.isdigit, filled_in[name])) <= 15:
                raise Refusal("phone-format")
        self._people[person.account] = replace(person, **filled_in)
        return self._people[person.account]

    def unlock(self, account: str) -> bool:
        """Whether it was locked."""
        known = self._passwords.get(account.casefold())
        if known is None:
            raise Refusal("account-unknown")
        was_locked, known.wrong_in_a_row = known.locked, 0
        return was_locked


class DemoAdapter:
    """The directory behind seconds of latency and no more than `slots` calls at once.

    `peak` is the most calls that were ever under way together.
    """

    actions = ACTIONS
    messages = MESSAGES

    def __init__(
        self,
        random: Random,
        latency_seconds: tuple[float, float] = (2.0, 6.0),
        slots: int = SLOTS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.directory = Directory()
        self.calls = 0
        self.peak = 0
        self._random = random
        self._latency_seconds = latency_seconds
        self._slots = slots
        self._sleep = sleep

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def health(self) -> Health:
        if self.calls > self._slots:
            return Health(False, "too-many-calls", f"{self.calls} calls, {self._slots} slots")
        return Health(True)

    async def execute(self, job: Job, context: Context) -> Outcome:
        return await self._call(job, context, self._carry_out)

    async def reconcile(self, job: Job, context: Context) -> Outcome:
        if ACTIONS[job.task].idempotent:
            return await self.execute(job, context)
        return await self._call(job, context, self._look_whether_changed)

    async def _call(
        self, job: Job, context: Context, ask: Callable[[Job, Context], Outcome]
    ) -> Outcome:
        self.calls += 1
        self.peak = max(self.peak, self.calls)
        try:
            if self.calls > self._slots:
                return Outcome("broken", "too-many-calls", private=f"{self.calls} calls at once")
            # Mostly near the quick end, as with a real one.
            quick, slow = self._latency_seconds
            await self._sleep(self._random.triangular(quick, slow, quick + (slow - quick) / 4))
            return ask(job, context)
        except Refusal as refusal:
            return Outcome("rejected", refusal.code)
        finally:
            self.calls -= 1

    def _carry_out(self, job: Job, context: Context) -> Outcome:
        if context.cancelled():
            return Outcome("rejected", "cancelled")
        fields = plain_fields(job)
        account = fields.get("account", "")
        match job.task:
            case "look-up-phone":
                return Outcome("done", "found", _shown(job, self.directory.look_up(account)))
            case "change-password":
                self.directory.change_password(
                    account, context.secret("password"), context.secret("new_password")
                )
                return Outcome("done", "password-changed")
            case "update-details":
                person = self.directory.update_details(account, fields)
                return Outcome("done", "details-updated", _shown(job, person))
            case _:
                was_locked = self.directory.unlock(account)
                person = self.directory.look_up(account)
                return Outcome(
                    "done", "unlocked" if was_locked else "not-locked", _shown(job, person)
                )

    def _look_whether_changed(self, job: Job, context: Context) -> Outcome:
        account = plain_fields(job).get("account", "")
        if self.directory.password_is(account, context.secret("new_password")):
            return Outcome("done", "password-changed")
        return Outcome("rejected", "password-unchanged")


def _shown(job: Job, person: Person) -> dict[str, str]:
    return {asked.name: getattr(person, asked.name) for asked in ACTIONS[job.task].result}


def _digest(password: str) -> bytes:
    # Only so that no password stands in memory longer than its call; this is a demo.
    return hashlib.sha256(password.encode()).digest()
