"""What can go wrong, as one family.

    NowServingError
    ├── Refused                 the request cannot be granted; nothing was changed
    │   ├── BadInput            what was sent does not read as what was asked for
    │   ├── BadTicket           no ticket, or one that this line did not sign
    │   ├── NotFound            no such line, ticket, job, service or action
    │   ├── WrongState          the ticket, job or line is not where the verb begins
    │   ├── LineClosed          no numbers are given now
    │   └── LineFull            no more room; carries when to try again
    ├── LeaseLost               the job is no longer in this holder's hand
    ├── Unsupported             asked of a store or engine that cannot promise it
    └── Unavailable             a store did not answer; the outcome is *unknown*
        └── NumbersGiven        a roster made anew gives numbers that were given before

Lines raise, `handlers/base.py` maps to statuses in one table, movers catch at the edge of
a round. `code` is stable and is what programs and catalogues go by; the sentence of the
exception is for the log.
"""


class NowServingError(Exception):
    """Base of the family. `code` is a stable word in kebab-case."""

    def __init__(self, code: str, sentence: str = "") -> None:
        super().__init__(sentence or code)
        self.code = code


class Refused(NowServingError):
    """The request cannot be granted as it stands; nothing was changed."""


class BadInput(Refused):
    """`field` names the part that did not read; `code` says how."""

    def __init__(self, code: str, field: str = "", sentence: str = "") -> None:
        super().__init__(code, sentence or f"{field}: {code}")
        self.field = field


class BadTicket(Refused):
    """`ticket-missing`, `ticket-forged` (another line's is that too) or `ticket-expired`."""


class NotFound(Refused):
    """`line-unknown`, `ticket-unknown`, `job-unknown`, `service-unknown` or `action-unknown`."""


class WrongState(Refused):
    """The state changed meanwhile or the verb does not begin here; `state` is the state now."""

    def __init__(self, code: str, state: str = "", sentence: str = "") -> None:
        super().__init__(code, sentence or f"{code}: is {state}")
        self.state = state


class LineClosed(Refused):
    """No numbers are given: `line-closed` or `line-draining`."""


class LineFull(Refused):
    """The line has no more room; ask again after `retry_after_seconds`."""

    def __init__(self, code: str = "line-full", retry_after_seconds: int = 60) -> None:
        super().__init__(code)
        self.retry_after_seconds = retry_after_seconds


class LeaseLost(NowServingError):
    """(id, attempt) no longer holds the job: the lease ended, or somebody else has it now."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__("lease-lost", sentence)


class Unsupported(NowServingError):
    """This store or engine cannot promise what was asked; said at start-up, never later."""

    def __init__(self, sentence: str) -> None:
        super().__init__("unsupported", sentence)


class Unavailable(NowServingError):
    """A store did not answer in time or refused: whether the write landed is unknown.

    The same request may be sent again; every write here is safe if it lands late or twice.
    """

    def __init__(
        self, code: str = "store-unavailable", sentence: str = "", retry_after_seconds: int = 2
    ) -> None:
        super().__init__(code, sentence)
        self.retry_after_seconds = retry_after_seconds


class NumbersGiven(Unavailable):
    """The ledger has those numbers already: they were given before a loss, up to `high_water`.

    Nobody was told them this time. Whoever asked may ask again.
    """

    def __init__(self, high_water: int) -> None:
        super().__init__(sentence=f"numbers up to {high_water} were given before a loss")
        self.high_water = high_water
