"""`drift doctor` finds what is well and what is not, in real services, and says what to do."""

from pathlib import Path

import pytest
from httpx import AsyncClient

from cli.doctor import Finding, examine
from services.rollout.settings import RolloutSettings
from tests.fakes.engine import FakeEngine

NOWHERE = "http://127.0.0.1:9"


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


async def test_a_whole_stack_is_found_well(settings: RolloutSettings, service: AsyncClient) -> None:
    found = by_name(await examine(settings, str(service.base_url).rstrip("/")))
    assert {name for name, finding in found.items() if finding.state == "bad"} == set()
    assert "token ids" in found["engines"].said
    assert found["Redis"].state == "doubtful"  # the tests' server has no append-only file
    assert found["trainer"].state == "doubtful" and "torchrun" in (found["trainer"].remedy or "")  # none runs here
    assert found["verifier"].said.endswith("grades correct and incorrect")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"redis_url": "redis://127.0.0.1:9/0"}, "Redis"),
        ({"engine_urls": (NOWHERE,)}, "engines"),
        ({"verifier_url": NOWHERE}, "verifier"),
    ],
)
async def test_what_is_missing_is_named_with_a_remedy(
    settings: RolloutSettings, change: dict[str, object], what: str, tmp_path: Path
) -> None:
    found = by_name(await examine(settings.model_copy(update=change), NOWHERE))
    assert found[what].state == "bad"
    assert found[what].remedy
    assert found["rollout service"].state == "bad"


async def test_an_engine_that_bends_the_sampling_is_found(settings: RolloutSettings, engine: FakeEngine) -> None:
    engine.generation = "auto"
    found = by_name(await examine(settings, NOWHERE))
    assert found["engines"].state == "bad"
    assert "--generation-config vllm" in (found["engines"].remedy or "")
