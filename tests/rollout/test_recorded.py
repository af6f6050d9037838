"""What a job has recorded is found, weighed, reported and exported alike, wherever it lies at the moment."""

import asyncio
import io
import json
import math
import re
import shutil
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from redis.asyncio import Redis

from services.rollout.archive import Archive
from services.rollout.export import export
from services.rollout.outcomes import Outcomes
from services.rollout.settings import RolloutSettings
from services.trainer.ingest import Assembly, Ingest
from services.trainer.settings import RecorderSettings
from shared import keys
from shared.grading import Verdict
from shared.outcomes import PartOutcomes
from shared.returns import ReturnSpec, weigh
from shared.shards import dataset_folder, write_shard
from shared.stream import TrajectoryStream, ensure_group
from shared.trajectory import Problem, Trajectory, Turn
from tests.fakes.engine import FakeEngine, Message
from tests.rollout.client import PROBLEMS, finish, submit

K = 4


def script(messages: list[Message], weights: str) -> str:
    """Some of a group's trajectories are right at once, some later, some never, some say nothing readable."""
    script.calls += 1  # pyright: ignore[reportFunctionMemberAccess]
    return ["B", "A", "no idea", "A", "C of the letters?", "B", "A"][script.calls % 7]  # pyright: ignore[reportFunctionMemberAccess]


@asynccontextmanager
async def recording(redis: Redis, settings: RolloutSettings) -> AsyncIterator[None]:
    """A recorder beside the service."""
    task = asyncio.create_task(Ingest(redis, RecorderSettings(runs_root=settings.runs_root, flush_seconds=0.1)).run())
    yield
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def job(service: httpx.AsyncClient, engine: FakeEngine) -> str:
    """A finished job with mixed outcomes; nothing of it has left the stream."""
    script.calls = 0  # pyright: ignore[reportFunctionMemberAccess]
    engine.script = lambda messages, weights: script(list(messages), weights)
    name = await submit(
        service, sampling={"trajectories": K}, protocol={"max_turns": 3}, evaluate=[{"problems": PROBLEMS[:2]}]
    )
    assert (await finish(service, name)).state == "succeeded"
    return name


async def record(redis: Redis, settings: RolloutSettings, job: str) -> None:
    """Move all of the job's trajectories into the dataset."""
    async with recording(redis, settings), asyncio.timeout(60):
        while await redis.xlen(keys.trajectories(job)):
            await asyncio.sleep(0.02)


async def ask(service: httpx.AsyncClient, job: str, route: str, **params: Any) -> Any:
    return (await service.get(f"/v1/jobs/{job}/{route}", params=params)).raise_for_status().json()


async def test_filters_find_what_they_name_before_and_after_recording(
    service: httpx.AsyncClient, redis: Redis, settings: RolloutSettings, job: str
) -> None:
    everything = (await ask(service, job, "trajectories", limit=1000))["trajectories"]
    rollouts = [one for one in everything if one["part"] == "rollout-0"]
    assert len(rollouts) == K * len(PROBLEMS) and len(everything) == len(rollouts) + 2
    expected = {
        "ending=solved": [one for one in everything if one["success"]],
        "part=rollout-0&ending=max_turns": [one for one in rollouts if one["ending"] == "max_turns"],
        "min_turns=2&max_turns=2": [one for one in everything if len(one["turns"]) == 2],
        "verdict=unparsable": [
            one for one in everything if any(turn["verdict"] == "unparsable" for turn in one["turns"])
        ],
        "min_weight=1.0": [one for one in rollouts if one["weight"] >= 1.0],
        "max_weight=0.1": [one for one in rollouts if one["weight"] <= 0.1],
        "policy=base&group=1&part=rollout-0": [one for one in rollouts if one["group"] == 1],
        "policy=stage-1": [],
        "text=QUESTION 3": [one for one in everything if "Question 3?" in one["problem"]["problem"]],
        "text=No Idea": [one for one in everything if any("no idea" in turn["text"] for turn in one["turns"])],
    }
    assert all(found for query, found in expected.items() if query != "policy=stage-1")
    for _ in range(2):
        for query, wanted in expected.items():
            found: list[Any] = []
            after = ""
            while True:
                page = (await service.get(f"/v1/jobs/{job}/trajectories?{query}&limit=3&after={after}")).json()
                found += page["trajectories"]
                after = page["next"]
                if after is None:
                    break
            assert found == wanted, query
        await record(redis, settings, job)


async def test_outcomes_are_the_trajectories_wherever_they_lie(
    service: httpx.AsyncClient, redis: Redis, settings: RolloutSettings, job: str
) -> None:
    for _ in ("in the stream", "in shards"):
        for part in ("rollout-0", "evaluate-0-0"):
            rows = (await ask(service, job, "trajectories", limit=1000, part=part))["trajectories"]
            columns = PartOutcomes.model_validate(await ask(service, job, "outcomes", part=part))
            assert (columns.part, columns.policy) == (part, "base")
            assert list(zip(columns.group, columns.k, columns.ending, strict=True)) == [
                (row["group"], row["k"], row["ending"]) for row in rows
            ]
            parsed = [[turn["answer"] for turn in row["turns"] if turn["verdict"] != "unparsable"] for row in rows]
            assert columns.turns == [len(row["turns"]) for row in rows]
            assert columns.answered == [len(answers) for answers in parsed]
            assert columns.distinct == [len(set(answers)) for answers in parsed]
            outcomes = Outcomes.from_columns(columns)
            assert await Archive(redis, settings.runs_root).compose(job, part) == outcomes.compose()
            returned = outcomes.score(ReturnSpec())
            assert returned == pytest.approx([row["return"] for row in rows])
        await record(redis, settings, job)
    assert (await service.get(f"/v1/jobs/{job}/outcomes", params={"part": "rollout-7"})).status_code == 404


async def test_weights_under_other_constants_are_those_of_the_formulas(
    service: httpx.AsyncClient, redis: Redis, settings: RolloutSettings, job: str
) -> None:
    rollouts = (await ask(service, job, "trajectories", limit=1000, part="rollout-0"))["trajectories"]
    waiting = await ask(service, job, "weights", beta=0.5, gamma=0.5, phi=0, **{"lambda": 1.0})
    await record(redis, settings, job)
    recorded = await ask(service, job, "weights", beta=0.5, gamma=0.5, phi=0, **{"lambda": 1.0})
    assert recorded == waiting
    weights: dict[str, float] = {}
    for group in range(len(PROBLEMS)):
        members = [one for one in rollouts if one["group"] == group]
        values = []
        for one in members:
            parsed = [turn["answer"] for turn in one["turns"] if turn["verdict"] != "unparsable"]
            repeat = 1 - len(set(parsed)) / len(parsed) if parsed else 0
            values.append(0.5 ** (len(one["turns"]) - 1) * one["success"] - repeat)
        weights |= {one["id"]: weight for one, weight in zip(members, weigh(values, 0.5), strict=True)}
    assert sum(recorded["weights"]["counts"]) == recorded["weighted"] == len(weights)
    sizes = [
        sum(group) ** 2 / sum(weight**2 for weight in group)
        for group in ([weights[one["id"]] for one in rollouts if one["group"] == place] for place in range(6))
    ]
    assert recorded["effective_sample_size"]["mean"] == pytest.approx(sum(sizes) / len(sizes))
    assert recorded["effective_sample_size"]["min"] == pytest.approx(min(sizes))
    before = {one["id"]: one["weight"] for one in rollouts}
    assert recorded["gaining"] == sum(weights[id] > before[id] + 1e-9 for id in weights)
    best = recorded["gains"][0]["id"]  # of several that gain alike, any
    assert weights[best] - before[best] == pytest.approx(max(weights[one] - before[one] for one in weights))
    assert recorded["gains"][0]["after"] == pytest.approx(weights[best])
    solved = [sum(one["success"] for one in rollouts if one["group"] == group) for group in range(6)]
    composition = recorded["composition"]
    assert composition["complete"] == 6
    assert composition["mixed"] == sum(0 < count < K for count in solved)
    status = (await service.get(f"/v1/jobs/{job}")).json()
    assert status["rollouts"][0]["composition"] == composition
    star = await ask(service, job, "weights", objective="star")
    assert star["weighted"] == sum(one["success"] and len(one["turns"]) == 2 for one in rollouts)


async def test_a_report_has_the_measures_with_intervals_and_reads_well(service: httpx.AsyncClient, job: str) -> None:
    report = await ask(service, job, "report")
    figures = report["rollouts"][0]["figures"]
    assert figures["trajectories"] == figures["total"] == K * len(PROBLEMS)
    measures = figures["measures"]
    bounded = [
        *zip(measures["multi_at"], measures["interval"], strict=True),
        *zip(measures["solved_rate_at"], measures["solved_interval_at"], strict=True),
        (measures["correction_rate"], measures["correction_interval"]),
    ]
    for share, (low, high) in bounded:
        assert 0 <= low <= share <= high <= 1
    assert [one["measures"]["n"] for one in report["evaluations"]] == [2]
    assert [one["step"] for one in report["timings"]] == ["prepare", "evaluate", "rollout"]
    for query, accepted in (("?format=md", "*/*"), ("", "text/markdown")):
        reply = await service.get(f"/v1/jobs/{job}/report{query}", headers={"Accept": accepted})
        assert reply.headers["content-type"].startswith("text/markdown")
        assert f"({job}): succeeded" in reply.text
        assert re.search(r"\| correction rate \| [\d.]+ % \[[\d.]+, [\d.]+\] \|", reply.text)
        assert "| multi@3 |" in reply.text and "## Rollouts" in reply.text and "all wrong" in reply.text
    metrics = await ask(service, job, "metrics.json")
    assert [part["part"] for part in metrics["parts"]] == ["evaluate-0-0", "rollout-0"]
    live = metrics["parts"][1]["measures"]
    over_problems = {name: measures[name] for name in ("interval", "correction_interval", "solved_interval_at")}
    assert metrics["parts"][1] | {"measures": live | over_problems} == figures


async def test_an_export_holds_every_trajectory_once_in_each_format(
    service: httpx.AsyncClient, redis: Redis, settings: RolloutSettings, job: str, tmp_path: Path
) -> None:
    everything = (await ask(service, job, "trajectories", limit=1000))["trajectories"]
    expected = {(one["part"], one["group"], one["k"]): (one["return"], one["weight"]) for one in everything}
    for _ in range(2):
        lines = [json.loads(line) for line in (await service.get(f"/v1/jobs/{job}/export")).text.splitlines()]
        table = pq.read_table(io.BytesIO((await service.get(f"/v1/jobs/{job}/export?format=parquet")).content))
        for rows in (lines, table.to_pylist()):
            found = {(_part(row), row["group"], row["k"]): (row["return"], row["weight"]) for row in rows}
            assert len(rows) == len(found)
            assert found.keys() == expected.keys()
            for place, (value, weight) in found.items():
                assert value == pytest.approx(expected[place][0])
                assert weight == (None if expected[place][1] is None else pytest.approx(expected[place][1]))
        assert lines[0]["turns"][0]["token_ids"] and lines[0]["problem"]["answer"] == ["B"]
        await record(redis, settings, job)


async def test_an_exported_folder_is_a_hugging_face_dataset(
    service: httpx.AsyncClient, redis: Redis, settings: RolloutSettings, job: str, tmp_path: Path
) -> None:
    await record(redis, settings, job)
    reply = await service.get(f"/v1/jobs/{job}/export?format=hf")
    assert reply.headers["content-disposition"] == f'attachment; filename="{job}.tar"'
    archive = tmp_path / "export.tar"
    archive.write_bytes(reply.content)
    shutil.unpack_archive(archive, tmp_path)
    cache = str(tmp_path / "cache")
    rollouts = load_dataset(str(tmp_path / job), split="train", cache_dir=cache)
    assert len(rollouts) == K * len(PROBLEMS)
    assert {"turns", "return", "weight", "problem"} <= set(rollouts.column_names)
    assert math.isclose(sum(rollouts["weight"]), len(rollouts))
    evaluation = load_dataset(str(tmp_path / job), "evaluate-0-0", split="train", cache_dir=cache)
    assert evaluation["weight"][:] == [None, None]


def _part(row: dict[str, Any]) -> str:
    return f"rollout-{row['stage']}" if row["phase"] == "rollout" else f"evaluate-{row['stage']}-{row['dataset']}"


async def test_a_job_without_rollouts_has_no_weights_and_an_empty_export(service: httpx.AsyncClient) -> None:
    job = await submit(service, dataset=None, evaluate=[{"problems": PROBLEMS[:1]}])
    await finish(service, job)
    reply = await service.get(f"/v1/jobs/{job}/weights")
    assert (reply.status_code, reply.json()["title"]) == (404, "Not Found")
    assert (await service.get(f"/v1/jobs/{job}/export?part=rollout-0")).text == ""


async def test_a_page_ends_before_its_token_ids_are_too_many(
    service: httpx.AsyncClient, redis: Redis, settings: RolloutSettings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = (await ask(service, job, "trajectories", limit=1000))["trajectories"]
    most = 2 * max(map(_count_ids, everything)) - 1
    monkeypatch.setattr("services.rollout.records._MOST_IDS", most)
    monkeypatch.setattr("services.rollout.records._FETCHED", 3)
    for _ in ("in the stream", "in shards"):
        found: list[Any] = []
        after: str | None = ""
        while after is not None:
            page = await ask(service, job, "trajectories", limit=1000, after=after)
            assert sum(map(_count_ids, page["trajectories"])) <= most
            found, after = found + page["trajectories"], page["next"]
        assert found == everything
        await record(redis, settings, job)
    monkeypatch.setattr("services.rollout.records._MOST_IDS", 1)
    page = await ask(service, job, "trajectories", limit=1000)
    assert page["trajectories"] == everything[:1], "one that is too long by itself is given by itself"


def _count_ids(trajectory: dict[str, Any]) -> int:
    return sum(len(turn["prompt_token_ids"]) + len(turn["token_ids"]) for turn in trajectory["turns"])


async def test_json_lines_hold_the_ids_of_few_trajectories_at_a_time(redis: Redis, tmp_path: Path) -> None:
    ids = list(range(1000, 5000))
    turn = Turn(prompt_token_ids=[], token_ids=ids, text="A", finish_reason="stop", verdict=Verdict.CORRECT)
    rows = [
        Trajectory(
            job="long", phase="rollout", stage=0, policy="base", group=group, k=0, group_size=1,
            problem=Problem(id="1", problem="?", answer="A"), turns=[turn], ending="solved", engine="e", model="m",
        )
        for group in range(256)
    ]  # fmt: skip
    write_shard(dataset_folder(tmp_path, "long", "rollout-0"), rows)
    tracemalloc.start()
    try:
        pieces = export(Archive(redis, tmp_path), "long", ReturnSpec(), "jsonl")
        lines = sum([piece.count(b"\n") async for piece in pieces])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lines == len(rows)
    assert peak < 8 * len(rows) * len(ids), "a Python integer in a list takes 36 bytes"


async def test_a_group_in_a_shard_and_still_in_the_stream_counts_once(
    redis: Redis, settings: RolloutSettings, job: str
) -> None:
    archive = Archive(redis, settings.runs_root)
    before = await archive.compose(job, "rollout-0")
    assert before.complete == len(PROBLEMS)
    await ensure_group(redis, keys.trajectories(job), keys.TRAINER_GROUP)
    entries = await TrajectoryStream(redis, job).read("test", 1000, 1000)
    waiting = [Trajectory.model_validate_json(entry.payload) for entry in entries]
    group = [one for one in waiting if (one.part, one.group) == ("rollout-0", 0)]
    write_shard(dataset_folder(settings.runs_root, job, "rollout-0"), group)
    assert await archive.compose(job, "rollout-0") == before


async def test_what_went_to_the_dead_letters_is_not_recorded(
    service: httpx.AsyncClient, redis: Redis, settings: RolloutSettings, job: str
) -> None:
    async def look() -> list[tuple[int, int]]:
        columns = await ask(service, job, "outcomes", part="rollout-0")
        return list(zip(columns["group"], columns["k"], strict=True))

    whole = await look()
    stream = TrajectoryStream(redis, job)
    await ensure_group(redis, keys.trajectories(job), keys.TRAINER_GROUP)
    entries = await stream.read("test", 1000, 1000)
    read = [(Trajectory.model_validate_json(entry.payload), entry) for entry in entries]
    at = {(one.part, one.group, one.k): entry for one, entry in read}
    late = at.pop(("rollout-0", 0, 1))
    ingest = RecorderSettings(runs_root=settings.runs_root)
    for taken, left in ((list(at.values()), [(0, 1)]), ([late], [])):
        assembly = Assembly(Ingest(redis, ingest), stream, job, ingest)
        await assembly.take(taken)
        await assembly.close()
        assert await look() == left + [place for place in whole if place[0] != 0]
    assert await redis.xlen(keys.dead_letters(job)) == K
    weights = await ask(service, job, "weights")
    assert weights["composition"]["complete"] == len(PROBLEMS) - 1


async def test_a_job_of_many_shards_is_read_by_opening_each_once(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dataset_folder(tmp_path, "slow", "rollout-0")
    for group in range(5):
        one = Trajectory(
            job="slow", phase="rollout", stage=0, policy="base", group=group, k=0, group_size=1,
            problem=Problem(id="1", problem="?", answer="A"), turns=[], ending="failed", engine="e", model="m",
        )  # fmt: skip
        write_shard(folder, [one])
    opened: list[Path] = []
    real = pq.ParquetFile

    def count(path: Path) -> pq.ParquetFile:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(pq, "ParquetFile", count)
    (recorded,) = await Archive(redis, tmp_path).read("slow")
    assert (recorded.policy, list(recorded.outcomes.group)) == ("base", [0, 1, 2, 3, 4])
    assert len(opened) <= 5 + 1, "the first one again, for the part's policy"
