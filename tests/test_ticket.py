"""The ticket: a paper that only its line can make, names fit to be shown, and masks."""

import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.web import create_signed_value

from queue_backend.errors import BadInput, BadTicket, Unsupported
from queue_backend.people.ticket import State, Ticket, TicketSigner, clean_name, masked
from tests.fakes import Clock

LIFE = 3600
KEYS = {1: "the first secret of this line, long enough"}
ROTATED = {**KEYS, 2: "the second secret of this line, long enough"}


@pytest.fixture
def signer(clock):
    return TicketSigner(KEYS, clock, LIFE)


def ticket_of(clock, **changes):
    ordinary = {
        "line": "desk",
        "number": 42,
        "id": "0f" * 16,
        "name": "张伟",
        "service": "look-up-phone",
        "joined_at": int(clock.wall()) - 300,
        "joined_ahead": 7,
        "stamped_at": int(clock.wall()),
        "state": State.CALLED,
        "promised_at": int(clock.wall()) + 60,
    }
    return Ticket(**{**ordinary, **changes})


def refusal(signer, token, line="desk"):
    with pytest.raises(BadTicket) as refused:
        signer.read(token, line)
    return refused.value.code


# The paper


def test_what_was_signed_is_what_is_read(signer, clock):
    ticket = ticket_of(clock)
    assert signer.read(signer.sign(ticket), "desk") == ticket


def test_no_character_of_a_ticket_can_be_changed(signer, clock):
    """Every one-character change at every place, over the whole alphabet of a token."""
    token = signer.sign(ticket_of(clock))
    alphabet = string.ascii_letters + string.digits + "+/=|:-_ "
    tried = 0
    for at, genuine in enumerate(token):
        for other in alphabet:
            if other != genuine:
                assert refusal(signer, token[:at] + other + token[at + 1 :]).startswith("ticket-")
                tried += 1
    assert tried > 10_000


def test_no_character_of_a_ticket_can_be_left_out_doubled_or_cut_off(signer, clock):
    token = signer.sign(ticket_of(clock))
    for at in range(len(token)):
        refusal(signer, token[:at])
        refusal(signer, token[:at] + token[at + 1 :])
        refusal(signer, token[:at] + token[at] + token[at:])
    for added in ("=", "==", "|", "\n", " ", "0", "\0", "é"):
        refusal(signer, token + added)
        refusal(signer, added + token)


def test_a_ticket_of_another_line_is_none_of_this_one(signer, clock):
    token = signer.sign(ticket_of(clock, line="library"))
    assert refusal(signer, token) == "ticket-forged"
    assert signer.read(token, "library").line == "library"
    assert refusal(signer, token) == "ticket-forged", "nor after it was read once"


@pytest.mark.parametrize(
    "junk", ["", "42", "2|1:0|", "1|2|3", "a" * 3000, "张伟", "2|" * 500, "\0", "|||||"]
)
def test_junk_is_forged(signer, junk):
    assert refusal(signer, junk) == "ticket-forged"


@given(junk=st.text(max_size=300))
def test_no_text_at_all_breaks_the_reader(junk):
    refusal(TicketSigner(KEYS, Clock(), LIFE), junk)


def test_a_signature_of_the_old_kind_is_refused(signer, clock):
    """Version 1 of signed values is joined without separators, and SHA-1."""
    old = create_signed_value(KEYS[1], "ticket:desk", "[42]", version=1, clock=clock.wall)
    refusal(signer, old.decode())


def test_a_value_signed_for_another_purpose_is_no_ticket(signer, clock):
    other = create_signed_value(
        KEYS, "operator:desk", "[42]", version=2, clock=clock.wall, key_version=1
    )
    assert refusal(signer, other.decode()) == "ticket-forged"


def test_a_ticket_lives_from_its_last_stamp(signer, clock):
    token = signer.sign(ticket_of(clock))
    clock.tick(LIFE)
    assert signer.read(token, "desk").number == 42
    clock.tick(1)
    assert refusal(signer, token) == "ticket-expired"


def test_a_stamp_from_the_future_is_refused(signer, clock):
    """It would outlive every expiry; two minutes are what hosts' clocks may differ by."""
    now = int(clock.wall())
    signer.read(signer.sign(ticket_of(clock, stamped_at=now + 120)), "desk")
    assert refusal(signer, signer.sign(ticket_of(clock, stamped_at=now + 121))) == "ticket-expired"


def test_a_ticket_signed_before_the_keys_were_rotated_is_read(clock):
    old = TicketSigner(KEYS, clock, LIFE).sign(ticket_of(clock))
    rotated = TicketSigner(ROTATED, clock, LIFE)
    assert rotated.read(old, "desk").number == 42
    assert "|1:2|" in rotated.sign(ticket_of(clock)), "the newest key signs"


def test_a_ticket_of_a_dropped_key_has_expired(clock):
    token = TicketSigner(KEYS, clock, LIFE).sign(ticket_of(clock))
    without_it = TicketSigner({2: ROTATED[2]}, clock, LIFE)
    assert refusal(without_it, token) == "ticket-expired"


def test_a_secret_of_another_house_under_the_same_key_number_is_forged(clock):
    token = TicketSigner({1: ROTATED[2]}, clock, LIFE).sign(ticket_of(clock))
    assert refusal(TicketSigner(KEYS, clock, LIFE), token) == "ticket-forged"


@pytest.mark.parametrize(
    "keys", [{}, {1: ""}, {1: "x" * 31}, {1: "x" * 32, 2: ""}, {1: "x" * 32, 2: "短" * 10}]
)
def test_a_short_secret_is_refused_at_the_start(keys, clock):
    with pytest.raises(Unsupported):
        TicketSigner(keys, clock, LIFE)


@settings(deadline=None)
@given(
    name=st.text(
        st.characters(exclude_categories=["C", "Z"], exclude_characters="<>"),
        min_size=1,
        max_size=40,
    )
)
def test_every_name_we_keep_fits_on_the_paper_and_the_paper_in_a_cookie(name):
    clock = Clock()
    signer = TicketSigner(KEYS, clock, LIFE)
    token = signer.sign(ticket_of(clock, name=name, service="s" * 40))
    assert signer.read(token, "desk").name == name
    assert len(token) < 2048
    assert set(token) <= set(string.ascii_letters + string.digits + "+/=|:-_")


# Names


@pytest.mark.parametrize("typed", ["", " ", "     ", "\u3000", " \u3000 "])
def test_a_name_of_spaces_is_empty(typed):
    """Among them the wide space of Chinese keyboards, which once passed as a name."""
    with pytest.raises(BadInput) as refused:
        clean_name(typed)
    assert (refused.value.code, refused.value.field) == ("name-empty", "name")


def test_a_name_has_at_most_forty_characters():
    assert clean_name("é" * 40) == "é" * 40
    assert clean_name("  " + "é" * 40 + "  ") == "é" * 40
    with pytest.raises(BadInput, match="name-long"):
        clean_name("é" * 41)


def test_characters_are_counted_as_people_see_them_composed():
    assert clean_name("e\u0301" * 40) == "\u00e9" * 40


@pytest.mark.parametrize(
    "hidden",
    [
        *("\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x85"),  # control
        *("\u202a", "\u202e", "\u2066", "\u2069", "\u200e", "\u061c"),  # bidi
        *("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad"),  # zero width
        *("\u034f", "\u115f", "\u1160", "\u3164", "\uffa0", "\u2800"),  # drawn as nothing
        *("<", ">", "\ud800", "\ue000", "\u2028", "\u2029", "\u00a0", "\u2003"),
    ],
    ids=lambda character: f"U+{ord(character):04X}",
)
def test_nothing_invisible_and_no_angle_bracket_is_part_of_a_name(hidden):
    with pytest.raises(BadInput, match="name-characters"):
        clean_name(f"Karen{hidden}Nolan")


@pytest.mark.parametrize("typed", [None, 7, b"Karen", ["Karen"], {"name": "Karen"}])
def test_a_name_is_text(typed):
    with pytest.raises(BadInput, match="name-type"):
        clean_name(typed)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("  Karen   Nolan ", "Karen Nolan"),
        ("张\u3000伟", "张 伟"),
        ("\u3000张伟", "张伟"),
        ("O'Brien-Smith, Jr.", "O'Brien-Smith, Jr."),
        ("Nin\u0303o", "Ni\u00f1o"),
        ("علي", "علي"),
        ("A & B", "A & B"),
    ],
)
def test_a_name_is_kept_composed_and_with_single_spaces(typed, kept):
    assert clean_name(typed) == kept


@settings(deadline=None)
@given(typed=st.text(max_size=60))
def test_a_kept_name_is_kept_again_as_it_is(typed):
    try:
        kept = clean_name(typed)
    except BadInput:
        return
    assert 1 <= len(kept) <= 40
    assert clean_name(kept) == kept
    assert unicodedata.is_normalized("NFC", kept)


# Masks


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("张伟", "张*"),
        ("李小明", "李*明"),
        ("欧阳小明", "欧**明"),
        ("欧阳娜娜娜", "欧**娜"),
        ("张", "*"),
        ("Karen", "K***n"),
        ("Karen Nolan", "K***n"),
        ("K", "***"),
        ("knolan@example.org", "*"),
        ("", "*"),
    ],
)
def test_others_see_a_mask(name, seen):
    assert masked(name) == seen


@given(name=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=3, max_size=40))
def test_a_mask_shows_at_most_two_characters_of_a_name(name):
    assert len(masked(name).replace("*", "")) <= 2
