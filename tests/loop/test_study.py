"""A whole study by the command: killed in its midst, taken up again, and done again from what is recorded."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from cli.study.ledger import TaskRecord
from cli.study.results import Results
from tests.fakes.engine import FIRST_TOKEN, FakeEngine, Message
from tests.rollout.client import PROBLEMS
from tests.trainer.tiny import save_model

pytestmark = pytest.mark.slow
METHODS = ("base", "sft_5turn", "drift", "drift_refresh")
TASKS = 1 + 1 + 2 + 2 + (2 + 1 + 1)
"""Evaluate the base; shared rollouts; a training and an evaluation for two methods; the refresh's own."""
ROLLOUTS = 2
"""The shared ones, and the refresh's of its own policy."""


def write_study(path: Path) -> None:
    spec = {
        "name": "small",
        "model": "base",
        "base": {
            "dataset": {"problems": PROBLEMS},
            "protocol": {"max_turns": 3},
            "sampling": {"trajectories": 4, "max_tokens": 8},
            "train": {"steps": 2, "batch_size": 8, "learning_rate": 1e-3},
            "evaluate": [{"problems": PROBLEMS}],
        },
        "methods": {
            "base": None,
            "sft_5turn": {"train": {"objective": "uniform"}},
            "drift": {},
            "drift_refresh": {"refresh": {"stages": 2}},
        },
        "seeds": [1],
    }
    path.write_text(yaml.safe_dump(spec))


def losses(folder: Path) -> dict[str, list[float]]:
    """Of every training, by what it is for."""
    records = [TaskRecord.model_validate_json(path.read_bytes()) for path in folder.glob("records/train-*.json")]
    return {record.label: record.status.trainings[0].losses for record in records}


async def test_a_study_survives_its_death_and_gives_the_same_numbers_again(
    service: httpx.AsyncClient, engine: FakeEngine, trainer: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    base = save_model(tmp_path / "base", vocabulary=256 + FIRST_TOKEN)
    engine.root, engine.latency_s = str(base), 0.02

    def answer(messages: list[Message], weights: str) -> str:
        """The base is right at its second try, what is trained at its first, but for one problem."""
        hard = "Question 5" in messages[0]["content"]
        return "B" if not hard and (len(messages) > 1 or weights != str(base)) else "A"

    engine.script = lambda messages, weights: answer(list(messages), weights)
    engine.restart()
    file, folder = tmp_path / "study.yaml", tmp_path / "study"
    write_study(file)
    command = [
        *(sys.executable, "-m", "cli.main", "study", str(file)),
        *("--output", str(folder), "--url", str(service.base_url)),
    ]

    async def jobs() -> list[str]:
        return [job["id"] for job in (await service.get("/v1/jobs")).raise_for_status().json()["jobs"]]

    async def finish(*options: str) -> None:
        process = await asyncio.create_subprocess_exec(*command, *options, stdout=-1, stderr=-2, env=os.environ)
        said, _ = await asyncio.wait_for(process.communicate(), 600)
        assert process.returncode == 0, said.decode() + (tmp_path / "trainer.log").read_text()[-3000:]

    killed = await asyncio.create_subprocess_exec(*command, stdout=-3, stderr=-3, env=os.environ)
    async with asyncio.timeout(300):
        while len(await jobs()) < 3:  # the first training is on its way
            assert killed.returncode is None
            await asyncio.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    assert not (folder / "results.json").exists()

    await finish()
    assert len(await jobs()) == TASKS
    results = Results.model_validate_json((folder / "results.json").read_bytes())
    assert not results.pending
    assert {name: one.multi_at for name, one in results.methods.items()} == {
        name: [0, 5 / 6, 5 / 6] if name == "base" else [5 / 6] * 3 for name in METHODS
    }
    assert results.methods["drift"].seeds == [1]
    to_base = next(
        one for one in results.datasets["inline"].differences if (one.method, one.other) == ("drift", "base")
    )
    assert [one.mean for one in to_base.multi_at] == pytest.approx([5 / 6, 0, 0])
    assert results.drift_minus_sft5turn is not None and results.drift_minus_sft5turn.mean == 0
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["groups.svg", "turns-inline.svg"]
    assert "| drift | 1 | 83.3 |" in (folder / "results.md").read_text()

    # A report needs the records alone; a folder that is lost is filled again from the service's jobs.
    written = {path: path.read_bytes() for path in (*folder.glob("results.*"), *folder.glob("figures/*"))}
    for path in written:
        path.unlink()
    await finish("--report", "--url", "http://127.0.0.1:9")
    assert {path: path.read_bytes() for path in written} == written
    for path in folder.rglob("*.json"):
        path.unlink()
    await finish()
    assert len(await jobs()) == TASKS
    again = json.loads((folder / "results.json").read_text())
    assert again == json.loads(written[folder / "results.json"])

    # A second run from the same rollouts trains and evaluates anew, and gives the same numbers.
    second = tmp_path / "second"
    await finish("--output", str(second), "--rollouts-of", str(folder))
    assert len(await jobs()) == TASKS + TASKS - ROLLOUTS
    repeated = Results.model_validate_json((second / "results.json").read_bytes())
    assert (repeated.methods, repeated.datasets) == (results.methods, results.datasets)
    assert losses(second) == losses(folder)
