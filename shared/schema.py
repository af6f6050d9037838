"""The base of every schema that crosses a process boundary: frozen, and a stranger's field is an error."""

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """Frozen and strict about names: an unknown field is refused, so that a typo never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
