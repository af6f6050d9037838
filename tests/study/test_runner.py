"""The runner against a real service: nothing is done twice, and what failed is done again."""

import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from cli.client import JobClient
from cli.study.ledger import Ledger, TaskRecord
from cli.study.plan import list_rollouts, list_tasks, plan_runs
from cli.study.report import write_report
from cli.study.results import collect
from cli.study.runner import StudyFailed, carry_out
from cli.study.study_file import Study
from shared.errors import SpecError
from shared.status import JobStatus, State
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS

STUDY: dict[str, Any] = {
    "name": "untrained",
    "model": "weights/base",
    "base": {
        "dataset": {"problems": PROBLEMS},
        "protocol": {"max_turns": 2},
        "train": {"steps": 1},
        "evaluate": [{"problems": PROBLEMS}],
    },
    "methods": {"base": None},
    "seeds": [1],
}


async def run(service: httpx.AsyncClient, folder: Path, **change: Any) -> None:
    study = Study.model_validate(STUDY | change)
    console = Console(file=io.StringIO())
    async with JobClient.open(str(service.base_url)) as jobs:
        await carry_out(study, list_tasks(plan_runs(study)), Ledger(folder, study.name), jobs, console)


async def jobs(service: httpx.AsyncClient) -> int:
    return len((await service.get("/v1/jobs")).json()["jobs"])


async def test_what_is_done_is_not_done_again_even_where_its_job_was_not_noted(
    service: httpx.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    await run(service, tmp_path)
    asked = len(engine.requests)
    await run(service, tmp_path)
    for path in tmp_path.rglob("*.json"):  # killed between the submission and the note
        path.unlink()
    await run(service, tmp_path)
    assert (await jobs(service), len(engine.requests)) == (1, asked)
    results = collect(Study.model_validate(STUDY), Ledger(tmp_path, "untrained"))
    assert results.methods["base"].multi_at == [0, 1]
    assert results.datasets["inline"].problems == len(PROBLEMS)
    assert not results.pending


async def test_a_job_that_failed_is_told_with_its_reason_and_done_anew_by_the_next_run(
    service: httpx.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.generation = "auto"
    with pytest.raises(StudyFailed, match="generation-config") as raised:
        await run(service, tmp_path)
    assert "run the same command again" in str(raised.value)
    engine.generation = "vllm"
    await run(service, tmp_path)
    assert await jobs(service) == 2


async def test_engines_that_serve_another_model_are_refused(service: httpx.AsyncClient, tmp_path: Path) -> None:
    with pytest.raises(StudyFailed, match=r"is about Qwen/Qwen2\.5-3B-Instruct"):
        await run(service, tmp_path, model="Qwen/Qwen2.5-3B-Instruct")


def test_a_folder_belongs_to_one_study(tmp_path: Path) -> None:
    Ledger(tmp_path, "one").note_job("key", "20260101-000000-abcdef")
    with pytest.raises(SpecError, match="'one'"):
        Ledger(tmp_path, "other")
    assert Ledger(tmp_path, "one").job("key") == "20260101-000000-abcdef"


def test_a_second_run_begins_only_with_rollouts_that_are_there_and_in_a_folder_of_its_own(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY | {"methods": {"drift_refresh": {"refresh": {"stages": 2}}}})
    rollouts = list_rollouts(plan_runs(study))
    assert [rollout.policy is None for rollout in rollouts] == [True, False]
    first, second = Ledger(tmp_path / "first", study.name), Ledger(tmp_path / "second", study.name)
    for stage, rollout in enumerate(rollouts, 1):
        with pytest.raises(SpecError, match=f"no record of: roll out for drift_refresh seed 1 stage {stage}"):
            second.adopt(first, rollouts)
        assert not second.folder.exists(), "what is refused leaves nothing that looks begun"
        status = JobStatus(id=f"20260101-000000-00000{stage}", name="job", state=State.SUCCEEDED, created=0)
        first.write(TaskRecord(key=rollout.key, label="rolled out", status=status, outcomes=[]))
    second.adopt(first, rollouts)
    assert [second.job(one.key) for one in rollouts] == ["20260101-000000-000001", "20260101-000000-000002"]
    assert all(second.read(one.key) == first.read(one.key) for one in rollouts)
    assert second.replica and not first.replica
    assert Ledger(tmp_path / "second", study.name).replica == second.replica
    with pytest.raises(SpecError, match="already"):
        second.adopt(first, rollouts)


def test_a_report_says_what_is_not_measured_yet(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY | {"methods": {"base": None, "drift": {}}})
    results = collect(study, Ledger(tmp_path, study.name))
    assert results.pending == ["base", "drift seed 1"]
    path = write_report(tmp_path, results, "drift study FILE")
    assert "Not measured yet:** base; drift seed 1." in path.read_text()
