"""A set of numbers as a bitmap, held against a sorted list."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queue_backend.people.numbers import NumberSet

# Close together and far apart: several words of the index, and gaps of whole words.
NUMBERS = st.one_of(st.integers(0, 80), st.integers(900, 1_200), st.integers(0, 20_000))
SETS = st.sets(NUMBERS, max_size=60)


def number_set(members):
    return NumberSet().add_many(list(members))


@settings(deadline=None, print_blob=True)
@given(SETS, NUMBERS, st.booleans())
def test_it_answers_as_a_sorted_list_does(members, asked, indexed):
    numbers, model = number_set(members), sorted(members)
    if indexed:
        numbers.rank(asked)
    assert list(numbers) == model
    assert len(numbers) == len(model)
    assert bool(numbers) == bool(model)
    assert (asked in numbers) == (asked in model)
    assert numbers.rank(asked) == sum(each < asked for each in model)
    assert numbers.first(7) == model[:7]
    assert numbers.below(asked, 7) == [each for each in model if each < asked][-7:]
    assert [numbers.at(rank) for rank in range(len(model))] == model
    assert numbers.base == (model[0] if model else 0)


@settings(deadline=None, print_blob=True)
@given(SETS, SETS, NUMBERS)
def test_every_change_is_that_of_a_plain_set(members, others, number):
    numbers, other = number_set(members), number_set(others)
    assert list(numbers.add(number)) == sorted(members | {number})
    assert list(numbers.discard(number)) == sorted(members - {number})
    assert list(numbers.add_many(list(others))) == sorted(members | others)
    assert list(numbers.discard_many(list(others))) == sorted(members - others)
    assert list(numbers.minus(other)) == sorted(members - others)
    assert list(numbers) == sorted(members), "the set itself never changes"


@settings(deadline=None, print_blob=True)
@given(SETS)
def test_it_comes_back_from_its_bytes(members):
    numbers = number_set(members)
    again = NumberSet.from_bytes(numbers.base, numbers.to_bytes())
    assert again == numbers
    assert hash(again) == hash(numbers)
    assert len(numbers.to_bytes()) <= (max(members) - min(members)) // 8 + 1 if members else True


@settings(deadline=None)
@given(SETS, NUMBERS)
def test_how_it_was_made_makes_no_difference(members, number):
    one_by_one = NumberSet()
    for each in sorted(members, reverse=True):
        one_by_one = one_by_one.add(each)
    assert one_by_one == number_set(members)
    there_and_gone = one_by_one.add(number).discard(number)
    assert there_and_gone == number_set(members - {number})


def test_there_is_no_place_outside_the_set():
    numbers = number_set([3, 5])
    for rank in (-1, 2):
        with pytest.raises(IndexError):
            numbers.at(rank)
    with pytest.raises(IndexError):
        NumberSet().at(0)


def test_a_set_is_nothing_but_its_members():
    assert NumberSet() == NumberSet(base=77)
    assert NumberSet() != "no set"
    assert repr(number_set(range(10))) == "NumberSet(0, 1, 2, 3, 4, 5, 6, 7, …)"
    assert repr(number_set([4, 2])) == "NumberSet(2, 4)"


def test_a_hundred_thousand_take_a_bit_each():
    assert len(NumberSet().add_many(range(1, 100_001)).to_bytes()) == 12_500
