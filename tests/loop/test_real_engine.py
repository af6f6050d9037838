"""The real thing: vLLM and SmolLM2-135M, verifier, Valkey, rollout service and trainer, as `drift up` starts them.

What the scripted engine promises is asked of both engines here, so that the fake cannot drift from the real one.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest

from cli.generator import generate
from cli.model import ensure_model
from cli.ports import choose_free
from services.rollout.engines.control import Control
from services.rollout.engines.engine import ContextExceeded, Engine, Interrupted, Refused, Sampling
from services.rollout.engines.inspection import PROBE, check_neutral
from services.rollout.engines.limit import Limit
from shared.status import JobStatus, State
from tests.fakes.engine import FakeEngine
from tests.rollout.client import until

ROOT = Path(__file__).parents[2]
QUESTION = [{"role": "user", "content": "Which is a fruit?\nA. apple\nB. brick\nAnswer with the letter only.\nAnswer:"}]
GREEDY = Sampling(temperature=0.0, max_tokens=8)
SEEN_S = 3.0
"""How long the scripted engine takes for an answer that is to be seen, or stopped, in flight."""

real = pytest.mark.engine


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The whole stack on free ports, started and stopped as a user does; its environment."""
    folder = tmp_path_factory.mktemp("stack")
    model = ensure_model(ROOT / ".drift" / "model", print)
    ports = choose_free(dict.fromkeys(("redis_port", "engine_port", "verifier_port", "rollout_port"), 0))
    environment = {
        "DRIFT_MODEL": str(model),
        "DRIFT_STACK_ROOT": str(folder / "stack"),
        "DRIFT_RUNS_ROOT": str(folder / "runs"),
    } | {f"DRIFT_{name.upper()}": str(port) for name, port in ports.items()}
    command = [sys.executable, "-m", "cli.main"]
    surroundings = os.environ | environment

    def drift(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, name], env=surroundings, cwd=ROOT, capture_output=True, text=True)

    up = drift("up")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield environment
    finally:
        down = drift("down")
        assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture(params=["scripted", pytest.param("real", marks=real)])
async def any_engine(request: pytest.FixtureRequest, engine: FakeEngine) -> AsyncIterator[Engine]:
    url = engine.url
    engine.max_model_len = 2048
    if request.param == "real":
        url = f"http://127.0.0.1:{request.getfixturevalue('stack')['DRIFT_ENGINE_PORT']}"
    async with aiohttp.ClientSession() as session:
        yield Engine(url, lambda: session, Limit(16, 64))


@pytest.fixture
async def control(any_engine: Engine) -> AsyncIterator[Control]:
    async with httpx.AsyncClient() as client:
        yield Control(any_engine.url, client)


async def test_an_answer_carries_the_engines_token_ids(any_engine: Engine, control: Control) -> None:
    model = (await control.served_model()).name
    whole = await any_engine.answer(model, QUESTION, Sampling(temperature=0.0, max_tokens=200))
    assert whole.finish_reason == "stop"
    assert len(whole.prompt_token_ids) > 5
    cut = await any_engine.answer(model, QUESTION, Sampling(temperature=0.0, max_tokens=1))
    assert cut.prompt_token_ids == whole.prompt_token_ids
    assert (cut.finish_reason, cut.token_ids) == ("length", whole.token_ids[:1])
    # The end-of-turn token is the last one exactly when the answer ended by itself.
    longer = [*QUESTION, {"role": "assistant", "content": whole.text}, {"role": "user", "content": "Think again."}]
    other = await any_engine.answer(model, longer, Sampling(temperature=0.0, max_tokens=200))
    assert other.finish_reason == "stop"
    assert other.token_ids[-1] == whole.token_ids[-1] != cut.token_ids[-1]


async def test_an_answer_ends_where_the_context_does_and_a_longer_context_is_refused(
    any_engine: Engine, control: Control
) -> None:
    served = await control.served_model()
    assert served.context == 2048
    once = await any_engine.answer(served.name, PROBE, GREEDY)
    longer = await any_engine.answer(served.name, [{**PROBE[0], "content": PROBE[0]["content"] + " word"}], GREEDY)
    step = len(longer.prompt_token_ids) - len(once.prompt_token_ids)
    words = (served.context - 1 - len(once.prompt_token_ids)) // step  # at least one token of room
    nearly = [{**PROBE[0], "content": PROBE[0]["content"] + " word" * words}]
    answer = await any_engine.answer(served.name, nearly, Sampling(0.0, 8, ignore_eos=True))
    assert len(answer.prompt_token_ids) + len(answer.token_ids) <= served.context
    assert answer.finish_reason == "length"
    endless = [{**PROBE[0], "content": PROBE[0]["content"] + " word" * (words + 9)}]
    with pytest.raises(ContextExceeded):
        await any_engine.answer(served.name, endless, GREEDY)


async def test_an_unknown_model_is_refused(control: Control) -> None:
    with pytest.raises(Refused, match="DRIFT_ENGINE_MODEL"):
        await control.served_model("no-such-model")


async def test_a_neutral_engine_says_so(control: Control) -> None:
    assert await check_neutral(control)


async def test_an_engine_says_how_much_it_has_to_do(any_engine: Engine, control: Control, engine: FakeEngine) -> None:
    engine.latency_s = SEEN_S
    before = await control.load()
    assert before is not None
    assert (before.running, before.waiting) == (0, 0)
    model = (await control.served_model()).name
    work = asyncio.create_task(any_engine.answer(model, PROBE, Sampling(0.0, 64, ignore_eos=True)))
    async with asyncio.timeout(60):
        while (load := await control.load()) is None or load.running == 0:
            await asyncio.sleep(0.01)
    assert (load.running, load.waiting) == (1, 0)
    await work
    async with asyncio.timeout(60):
        while (after := await control.load()) is None or after.generated <= before.generated:
            await asyncio.sleep(0.01)


async def test_a_pause_for_new_weights_interrupts_what_is_in_flight(
    any_engine: Engine, control: Control, engine: FakeEngine
) -> None:
    engine.latency_s = SEEN_S
    served = await control.served_model()
    work = asyncio.create_task(any_engine.answer(served.name, PROBE, Sampling(0.0, 1500, ignore_eos=True)))
    async with asyncio.timeout(60):
        while (load := await control.load()) is None or load.running == 0:
            await asyncio.sleep(0.01)
    await control.load_weights(served.root)
    with pytest.raises(Interrupted):
        await work


async def test_reloading_the_same_weights_changes_nothing_but_the_label(any_engine: Engine, control: Control) -> None:
    served = await control.served_model()
    before = await any_engine.answer(served.name, QUESTION, GREEDY)
    await control.load_weights(served.root)
    after = await any_engine.answer(served.name, QUESTION, GREEDY)
    assert before.token_ids == after.token_ids
    assert (await control.serves()).weights == served.root
    assert await control.healthy()


@real
async def test_a_real_job_goes_from_questions_to_a_checkpoint_that_the_engine_serves(stack: dict[str, str]) -> None:
    made = generate(train=4, test=6, seed=3)
    spec = {
        "name": "real",
        "dataset": {"problems": [problem.model_dump(exclude_none=True) for problem in made.train]},
        "sampling": {"trajectories": 4, "max_tokens": 8},
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 5e-5},
        "evaluate": [{"problems": [problem.model_dump(exclude_none=True) for problem in made.test]}],
    }
    url = f"http://127.0.0.1:{stack['DRIFT_ROLLOUT_PORT']}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as service:
        submitted = await service.post("/v1/jobs", json=spec)
        assert submitted.status_code == 202, submitted.text
        job = submitted.json()["id"]
        status: JobStatus = await until(service, job, lambda status: status.state.final, deadline_s=900)
        assert status.state is State.SUCCEEDED, status.error
        page = (await service.get(f"/v1/jobs/{job}/trajectories", params={"part": "rollout-0"})).json()["trajectories"]
    assert [(each["group"], each["k"]) for each in page] == [(group, k) for group in range(4) for k in range(4)]
    for group in range(4):
        assert sum(each["weight"] for each in page if each["group"] == group) == pytest.approx(4)
    assert [each.n for each in status.evaluations] == [6, 6]
    assert status.trainings[0].step == status.trainings[0].steps == 2
    assert status.checkpoint is not None
    assert (Path(status.checkpoint) / "model.safetensors").is_file()
