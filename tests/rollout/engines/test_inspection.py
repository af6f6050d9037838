"""A job begins only at engines that know the model, add nothing to the sampling and have room for its answers, and
whose model takes the messages that it will send."""

import httpx
import pytest

from shared.status import State
from tests.fakes.engine import FakeEngine
from tests.rollout.client import PROBLEMS, finish, submit, until


async def refuse(service: httpx.AsyncClient, engine: FakeEngine, **sampling: object) -> str:
    """Why the job failed; not a problem has been shown to the engine."""
    status = await finish(service, await submit(service, sampling=sampling))
    assert status.state is State.FAILED
    assert not any("Question" in str(body["messages"]) for body in engine.requests)
    return status.error or ""


@pytest.mark.parametrize("generation", ["auto", "/models/other"])
async def test_an_engine_with_sampling_defaults_of_its_own_is_refused(
    service: httpx.AsyncClient, engine: FakeEngine, generation: str
) -> None:
    engine.generation = generation
    error = await refuse(service, engine)
    assert "--generation-config vllm" in error
    assert engine.url in error


async def test_an_engine_that_cuts_answers_short_is_found_out_even_if_it_does_not_say_how_it_was_started(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.developing, engine.longest = False, 20
    error = await refuse(service, engine, max_tokens=64)
    assert "20 tokens of 64" in error
    assert "--generation-config vllm" in error


async def test_an_engine_without_development_mode_serves_its_base(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.developing = False
    assert (await finish(service, await submit(service))).state is State.SUCCEEDED


async def test_answers_that_leave_no_room_for_a_prompt_are_refused(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.max_model_len = 512
    error = await refuse(service, engine, max_tokens=512)
    assert "sampling.max_tokens 512" in error
    assert "--max-model-len" in error


async def test_an_engine_that_is_only_starting_is_waited_for(service: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.starting = True
    job = await submit(service)
    waiting = await until(service, job, lambda status: status.progress is not None)
    assert waiting.progress is not None
    assert engine.url in (waiting.progress.message or "")
    engine.starting = False
    assert (await finish(service, job)).state is State.SUCCEEDED


@pytest.mark.parametrize("train", [{"steps": 1}, {"steps": 1, "lora": {"merge": True}}])
async def test_a_job_whose_policies_could_not_be_loaded_is_refused_before_it_begins(
    service: httpx.AsyncClient, engine: FakeEngine, train: dict[str, object]
) -> None:
    engine.developing = False
    status = await finish(service, await submit(service, train=train, evaluate=[{"problems": PROBLEMS}]))
    assert status.state is State.FAILED
    assert "VLLM_SERVER_DEV_MODE=1" in str(status.error)
    assert status.steps_done == 0


async def test_an_engine_that_does_not_say_how_it_was_started_is_no_engine_without_development_mode(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.reticent = True
    job = await submit(service, train={"steps": 1}, evaluate=[{"problems": PROBLEMS}])
    status = await until(service, job, lambda status: status.steps_done > 0 or status.state.final)
    assert status.error is None


async def test_a_job_of_adapters_is_refused_by_an_engine_that_takes_none(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.taking_adapters = False
    train = {"steps": 1, "lora": {}}
    status = await finish(service, await submit(service, train=train, refresh={"stages": 2}))
    assert status.state is State.FAILED
    assert "--enable-lora" in str(status.error)
    assert status.steps_done == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"protocol": {"template": "paper"}},
        {"protocol": {"evaluation_template": "paper"}, "evaluate": [{"problems": PROBLEMS}]},
        {"dataset": {"problems": [*PROBLEMS, {"id": "math", "problem": "Question, of another kind?", "answer": "4"}]}},
    ],
    ids=["rollout", "evaluation", "a kind among others"],
)
async def test_a_model_that_takes_no_system_message_is_refused_a_job_that_sends_one(
    service: httpx.AsyncClient, engine: FakeEngine, spec: dict[str, object]
) -> None:
    engine.taking_system = False
    status = await finish(service, await submit(service, **spec))
    assert status.state is State.FAILED
    assert "System role not supported" in str(status.error)
    assert "`protocol.template`" in str(status.error)
    assert not any("Question" in str(body["messages"]) for body in engine.requests)


async def test_a_model_that_takes_no_system_message_does_a_job_that_sends_none(
    service: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.taking_system = False
    job = await submit(service, protocol={"template": "plain", "evaluation_template": "paper"})
    assert (await finish(service, job)).state is State.SUCCEEDED
