"""The base of every schema that crosses a process boundary: frozen, and a stranger's field is an error."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """Frozen and strict about names: an unknown field is refused, so that a typo never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def describe_faults(faults: Sequence[Mapping[str, Any]]) -> str:
    """pydantic's faults as one line: field and fault of each, at most twenty."""
    named = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults[:20]]
    return "; ".join(named)
