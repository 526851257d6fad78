"""Asks that arrive together travel together.

While one batch is on its way the next gathers; so a thousand people who join at once need a
few dozen writes, and one who joins alone waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

# After a batch the event loop goes round this often before the next one leaves; an answer and
# the next question over HTTP take ten passes. So who comes meanwhile travels along: else a
# large batch and a small one would take turns for as long as a rush lasts, at twice the cost.
PASSES = 12

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


class Together(Generic[Ask, Answer]):
    """`carry` takes a batch and answers each, in order; an exception among the answers is
    raised to its asker alone, an exception of `carry` itself to all of that batch."""

    def __init__(
        self,
        carry: Callable[[list[Ask]], Awaitable[Sequence[Answer | Exception]]],
        largest: int = 512,
    ) -> None:
        self._carry = carry
        self._largest = largest
        self._gathered: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self._under_way: asyncio.Task[None] | None = None
        self.batches = 0
        self.asks = 0

    def ask(self, ask: Ask) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._gathered.append((ask, future))
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._travel())
        return future

    async def _travel(self) -> None:
        try:
            while self._gathered:
                batch = self._gathered[: self._largest]
                del self._gathered[: self._largest]
                await self._one(batch)
                for _ in range(PASSES):
                    await asyncio.sleep(0)
        finally:
            self._under_way = None

    async def _one(self, batch: list[tuple[Ask, "asyncio.Future[Answer]"]]) -> None:
        self.batches += 1
        self.asks += len(batch)
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._carry([ask for ask, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():  # the asker went away
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
