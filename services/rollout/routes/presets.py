"""Problem sets that a job can name."""

from pathlib import Path

from fastapi import APIRouter

from services.rollout.problems.presets import PRESETS
from services.rollout.routes import examples
from services.rollout.routes.examples import give
from shared.grading import Kind
from shared.schema import Schema


class PresetInfo(Schema):
    """One of the paper's sets."""

    name: str
    """What a job writes as `preset`."""
    title: str
    hub: str
    config: str | None
    split: str
    """Taken where a job names none."""
    splits: list[str]
    rows: int
    """Problems of the usual split as published; 0 where only a part of the rows is taken."""
    kind: Kind
    template: str
    """The paper's prompt for it, to name in `protocol.template`; `auto` chooses by the kind."""
    licence: str
    gated: bool
    note: str | None
    file: str | None
    """Its file in DRIFT_DATA_ROOT, for the usual split; absent where the hub is asked."""


class PresetList(Schema):
    """All of them."""

    presets: list[PresetInfo]


def build_preset_routes(data_root: Path) -> APIRouter:
    """Routes of `/v1/presets`."""
    router = APIRouter(prefix="/v1/presets", tags=["problems"])

    @router.get("", responses=give(examples.PRESETS))
    def list_presets() -> PresetList:
        """The paper's sets by name, where each comes from and under which licence."""
        return PresetList(
            presets=[
                PresetInfo(
                    kind=preset.layout.kind,
                    file=preset.find_file(data_root, preset.split),
                    **preset.model_dump(
                        include={"name", "title", "hub", "config", "split", "splits", "rows", "template", "licence",
                                 "gated", "note"}
                    ),
                )
                for preset in PRESETS.values()
            ]
        )  # fmt: skip

    return router
