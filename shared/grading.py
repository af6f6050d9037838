"""The verifier's contract: items to grade, and the verdicts that come back.

Only `correct`, `incorrect` and `unparsable` decide a turn (`unparsable` counts as incorrect plus the
format term of the return). `timeout` and `error` say that the grader failed, never that the answer is wrong.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from shared.schema import Schema

MAX_BATCH = 1024
"""Most items in one request to the verifier."""

MAX_TEXT = 1 << 18
"""Most characters in one response or gold answer."""

Text = Annotated[str, Field(max_length=MAX_TEXT)]

Several = Annotated[list[Text], Field(min_length=1, max_length=64)]
"""Gold answers of which any will do, or an item's options."""

Kind = Literal["math", "choice", "string"]
"""How an answer is graded: mathematical equivalence, an option's letter, or the paper scripts' string equality."""

Method = Literal["string", "numeric", "symbolic", "choice"]
"""The tier that decided."""


class Verdict(StrEnum):
    """What the verifier says of one response."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def decides(self) -> bool:
        """Whether this verdict decides a turn; the others mean that the response is still ungraded."""
        return self in (Verdict.CORRECT, Verdict.INCORRECT, Verdict.UNPARSABLE)


class VerifyItem(Schema):
    """One response to grade against its gold answer (or any of several)."""

    id: Annotated[str, Field(max_length=256)]
    kind: Kind = "math"
    response: Text
    answer: Text | Several
    letters: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The item's own option letters, e.g. "ABCD"; for `choice` only."""
    choices: Several | None = None
    """The options' texts in order; gives the letters where `letters` is absent; for `choice` only."""
    deadline_ms: Annotated[int, Field(ge=1, le=60_000)] | None = None
    """Longest time to grade this item, counted from its dispatch to a worker; the server's default when absent."""


class VerifyResult(Schema):
    """The verdict on one item, keyed by its id."""

    id: str
    verdict: Verdict
    extracted: str | None = None
    """The answer found in the response, as written there."""
    normal_form: str | None = None
    """The extracted answer up to cheap normalisation: equal forms count as one distinct answer."""
    method: Method | None = None
    """The tier that decided; absent where none did."""
    ms: float
    """Grading time in the server, milliseconds."""
    cached: bool = False
    detail: str | None = None
    """Why grading failed or was refused; absent for a decided verdict."""


class VerifyRequest(Schema):
    """A batch; results come back in the same order."""

    items: Annotated[list[VerifyItem], Field(min_length=1, max_length=MAX_BATCH)]


class VerifyResponse(Schema):
    """One result for each item, in order."""

    results: list[VerifyResult]
