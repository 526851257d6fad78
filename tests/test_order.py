"""Who waits in which order, held against a plain list of people."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from queue_backend.people.order import Order


class OrderAndList(RuleBasedStateMachine):
    """The same people in an Order and in a list, doing the same."""

    def __init__(self):
        super().__init__()
        self.order = Order()
        self.people: list[int] = []
        self.next_number = 1
        self.out: list[int] = []

    def somebody(self, data):
        return data.draw(st.sampled_from(self.people), label="who")

    @rule(count=st.integers(1, 5))
    def people_join(self, count):
        new = range(self.next_number, self.next_number + count)
        self.order = self.order.add_many(new)
        self.people += new
        self.next_number += count

    @precondition(lambda self: self.people)
    @rule(data=st.data())
    def one_goes(self, data):
        number = self.somebody(data)
        self.order = self.order.discard(number)
        self.people.remove(number)
        self.out.append(number)

    @precondition(lambda self: self.people)
    @rule(data=st.data())
    def many_go(self, data):
        numbers = data.draw(st.sets(st.sampled_from(self.people)))
        self.order = self.order.discard_many(numbers)
        self.people = [each for each in self.people if each not in numbers]
        self.out += sorted(numbers)

    @precondition(lambda self: self.out)
    @rule()
    def one_comes_back_as_next(self):
        """Behind those who came back before, in front of everybody else."""
        number = self.out.pop()
        before = sum(self.order.anchor(each) == 0 for each in self.people)
        self.order = self.order.add(number, 0)
        self.people.insert(before, number)

    @precondition(lambda self: self.people)
    @rule(data=st.data(), position=st.integers(0, 12))
    def one_is_moved(self, data, position):
        number = self.somebody(data)
        self.order = self.order.move(number, position, self.next_number)
        self.people.remove(number)
        self.people.insert(position, number)

    @precondition(lambda self: self.people)
    @rule(data=st.data())
    def one_gives_way(self, data):
        number = self.somebody(data)
        at = self.people.index(number)
        self.order = self.order.move(number, at + 1, self.next_number)
        self.people.remove(number)
        self.people.insert(at + 1, number)

    @precondition(lambda self: self.people)
    @rule(data=st.data())
    def one_who_waits_cannot_come_twice(self, data):
        number = self.somebody(data)
        assert self.order.add(number) is self.order
        assert self.order.add(number, 0) is self.order

    @invariant()
    def they_tell_the_same(self):
        people = self.people
        assert list(self.order) == people
        assert len(self.order) == len(people)
        assert [self.order.at(position) for position in range(len(people))] == people
        for position, number in enumerate(people):
            assert self.order.rank(number) == position
            assert number in self.order
            assert self.order.before(number, 4) == people[max(0, position - 4) : position]
        assert self.order.first(3) == people[:3]
        assert not any(number in self.order for number in self.out)
        assert self.next_number not in self.order
        with pytest.raises(IndexError):
            self.order.at(len(people))


TestOrderAndList = OrderAndList.TestCase
TestOrderAndList.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, print_blob=True
)


def test_whoever_came_back_stands_in_front_of_the_next_and_behind_those_before_him():
    order = Order().add_many([4, 5, 6]).add(2, 0).add(1, 0)
    assert list(order) == [2, 1, 4, 5, 6]


def test_a_place_stays_where_it_was_when_people_around_it_go():
    order = Order().add_many(range(1, 8)).move(7, 2, 8)
    assert list(order) == [1, 2, 7, 3, 4, 5, 6]
    assert list(order.discard_many([2, 3])) == [1, 7, 4, 5, 6]


def test_the_last_place_is_before_newcomers():
    order = Order().add_many([1, 2, 3]).move(1, 99, 4)
    assert list(order.add(4)) == [2, 3, 1, 4]


@given(st.permutations(range(1, 9)))
@settings(deadline=None)
def test_any_order_at_all_can_be_made_by_moving(wanted):
    order = Order().add_many(range(1, 9))
    for position, number in enumerate(wanted):
        order = order.move(number, position, 9)
    assert list(order) == wanted
    assert order == Order(order.regular, order.exceptions)
    assert hash(order) == hash(Order(order.regular, order.exceptions))


def test_it_says_who_comes_first():
    assert repr(Order().add_many(range(1, 11))) == "Order([1, 2, 3, 4, 5, 6, 7, 8]…)"
    assert repr(Order().add(3)) == "Order([3])"
    assert Order() != "no order"
