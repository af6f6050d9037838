"""What goes over the pipe between the server and a symbolic worker."""

from shared.schema import Schema


class Task(Schema):
    """Pairs of clean texts, gold first; equal if any pair is."""

    pairs: list[tuple[str, str]]


class Outcome(Schema):
    """What became of a task; `failure` says why it has no answer."""

    equal: bool | None = None
    failure: str | None = None
    spent: bool = False
    """Whether the worker met its memory limit, so that a fresh one must take its place."""
