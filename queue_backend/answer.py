"""What a verb will have said: for programs on an event loop, and for programs in threads.

The verbs of a job line are asked from both: a page awaits them, a plain Python program calls
`.result()`. One future serves both, so each verb is written once.
"""

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Answer(Future[T]):
    """`await answer` on an event loop, or `answer.result(timeout_seconds)` in a thread.

    Giving up on it (a cancelled task) takes the question back if nobody has begun with it.
    """

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()
