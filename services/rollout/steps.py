"""The steps of a job's plan, and how each is carried out. A step that is repeated after a crash does no harm."""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from services.rollout.archive import Archive
from services.rollout.bell import wait
from services.rollout.commands import POLL_S, giving_up, obey, obey_meanwhile, pause
from services.rollout.engines.control import ServedModel
from services.rollout.engines.engine import EngineDown
from services.rollout.engines.inspection import Loading, inspect
from services.rollout.engines.policy import Policies, adapter_base, request_model
from services.rollout.engines.pool import Engines
from services.rollout.evaluation import evaluate, summarise
from services.rollout.grader import PATIENCE_S, Grader
from services.rollout.intake import Intake
from services.rollout.jobs import Jobs, Part, StaleConductor
from services.rollout.problems.dataset import OnRow, Tally, count_problems
from services.rollout.problems.reader import Reader
from services.rollout.prompts import Prompts, Roles, pair_prompts
from services.rollout.settings import RolloutSettings
from services.rollout.tickets import Tickets
from services.rollout.turns import Turns
from shared import keys
from shared.errors import DriftError, Unavailable
from shared.job import DatasetSpec, JobSpec
from shared.status import JobStatus, Progress
from shared.stream import TrajectoryStream
from shared.training import TrainingState, TrainingStatus, TrainingTask
from shared.trajectory import part_name

MOST_TICKETS = 512
"""Tickets that wait at once; the dataset is read on as they are played."""
_TICKET_BATCH = 64
SWEEP_S = 60
EVENTS_S = 7 * 24 * 3600
"""The events of a job that is over are kept for so long: up to two thousand whole statuses, megabytes a job."""

Kind = Literal["prepare", "evaluate", "rollout", "train"]


class GivesWay(DriftError):
    """An older job wants the engines; this step goes on when it has done."""


@dataclass(frozen=True)
class Step:
    """One step of a plan."""

    kind: Kind
    stage: int = 0
    dataset: int = 0


def plan_steps(spec: JobSpec) -> list[Step]:
    """Prepare; evaluate the base; then for each stage roll out, train and evaluate what was trained (paper D.5)."""
    evaluations = range(len(spec.evaluate))
    steps = [Step("prepare"), *(Step("evaluate", 0, dataset) for dataset in evaluations)]
    if spec.dataset is None and spec.rollouts_of is None:
        return steps
    for stage in range(spec.refresh.stages if spec.train else 1):
        if spec.dataset:
            steps.append(Step("rollout", stage))
        if spec.train:
            steps.append(Step("train", stage))
            steps += [Step("evaluate", stage + 1, dataset) for dataset in evaluations]
    return steps


def find_loading(spec: JobSpec, start: str | None) -> Loading:
    """What the job will put into the engines, beginning with the policy in the folder `start`."""
    trained = any(step.stage and step.kind in ("rollout", "evaluate") for step in plan_steps(spec))
    if start and not adapter_base(start):
        return "weights"
    if trained and spec.train and (spec.train.lora is None or spec.train.lora.merge):
        return "weights"
    return "adapters" if trained or start else "nothing"


def policy_name(stage: int) -> str:
    """`base`, or the number of trainings behind the policy."""
    return f"stage-{stage}" if stage else "base"


class Steps:
    """Carries out steps for the conductor."""

    def __init__(
        self,
        redis: Redis,
        jobs: Jobs,
        engines: Engines,
        grader: Grader,
        policies: Policies,
        intake: Intake,
        archive: Archive,
        settings: RolloutSettings,
        turns: Turns,
    ) -> None:
        self._redis = redis
        self._jobs = jobs
        self._intake = intake
        self._archive = archive
        self._engines = engines
        self._grader = grader
        self._policies = policies
        self._settings = settings
        self._turns = turns

    async def carry_out(self, step: Step, spec: JobSpec, status: JobStatus, token: int) -> JobStatus:
        """The status after the step.

        Raises `Interrupted` on the user's word, `GivesWay` to an older job, and other `DriftError`s on failure.
        """
        match step.kind:
            case "prepare":
                return await self._prepare(spec, status, token)
            case "train":
                return await self._train(step, spec, status, token)
            case _:
                with giving_up() as check:
                    return await self._play(step, spec, status, token, check)

    async def sweep(self, job: str) -> None:
        """Drop the tickets of a job that is over, once no worker can be reading them any more, and later its events."""
        spec = await self._jobs.spec(job)
        await self._redis.expire(keys.events(job), EVENTS_S)
        for step in plan_steps(spec):
            if step.kind in ("rollout", "evaluate"):
                await self._redis.expire(keys.tickets(job, part_name(step.kind, step.stage, step.dataset)), SWEEP_S)

    async def _prepare(self, spec: JobSpec, status: JobStatus, token: int) -> JobStatus:
        """Every row is read and checked, and the engines found fit, before a token is generated."""
        rolled_out = await self._find_rollouts(spec.rollouts_of) if spec.rollouts_of else None
        pairs = pair_prompts(spec)
        tallies = [await self._count(status.id, dataset, prompts) if dataset else Tally() for dataset, prompts in pairs]
        openings = {
            prompts.roles(kind) for (_, prompts), tally in zip(pairs, tallies, strict=True) for kind in tally.kinds
        }
        start = await self._intake.find_policy(spec.start_from) if spec.start_from else None
        served = await self._inspect(spec, find_loading(spec, start), openings, status, token)
        base = rolled_out.base if rolled_out else start or served.root
        problems = [tally.problems for tally in tallies]
        if rolled_out:
            problems[0] = rolled_out.problems[0]
        return status.model_copy(
            update={
                "model": served.name,
                "base": base,
                "problems": problems,
                "skipped_rows": [tally.skipped for tally in tallies],
                "skipped_reasons": [reason for tally in tallies for reason in tally.reasons],
            }
        )

    async def _count(self, job: str, dataset: DatasetSpec, prompts: Prompts) -> Tally:
        with giving_up() as check:  # reading may take long
            count = asyncio.to_thread(count_problems, dataset, self._settings.data_root, prompts.open, check)
            return await obey_meanwhile(self._jobs, job, count)

    async def _find_rollouts(self, source: str) -> JobStatus:
        """The job whose rollouts are trained on, once they are complete."""
        status = await self._jobs.get(source)
        if not status.rollouts:
            raise DriftError(
                f"The rollouts of job {source} are not complete ({status.state}).",
                remedy="Submit this job again when they are.",
            )
        return status

    async def _inspect(
        self, spec: JobSpec, loading: Loading, openings: set[Roles], status: JobStatus, token: int
    ) -> ServedModel:
        """The model that the engines serve; an engine that is only starting is waited for."""
        begun = time.monotonic()
        while True:
            look = inspect(self._engines, self._settings.engine_model, spec.sampling.max_tokens, loading, openings)
            try:
                return await obey_meanwhile(self._jobs, status.id, look)  # an engine may take its whole deadline
            except EngineDown as error:
                if time.monotonic() - begun > self._settings.engine_deadline_s:
                    raise
                waiting = Progress(
                    phase="prepare", label="wait for an engine", done=0, total=1, unit="engines", message=str(error)
                )
                if waiting != status.progress:
                    status = await self._jobs.write(status.model_copy(update={"progress": waiting}), token)
                await asyncio.sleep(1.0)

    async def _play(self, step: Step, spec: JobSpec, status: JobStatus, token: int, check: OnRow) -> JobStatus:
        """One rollout or evaluation: hand out tickets until every trajectory is published."""
        rollout = step.kind == "rollout"
        dataset = spec.dataset if rollout else spec.evaluate[step.dataset]
        assert dataset is not None and status.model and step.kind in ("rollout", "evaluate")
        weights = self._weights(status, step.stage)
        groups = status.problems[0 if rollout else step.dataset + 1]
        part = Part(
            job=status.id,
            phase="rollout" if rollout else "evaluate",
            stage=step.stage,
            dataset=step.dataset,
            policy=policy_name(step.stage),
            weights=weights,
            model=request_model(weights, status.model),
            group_size=spec.sampling.trajectories if rollout else 1,
            groups=groups,
        )
        total = groups * part.group_size
        tickets = Tickets(self._redis, part)
        await tickets.prepare()
        begun = time.monotonic()
        self._engines.want(part.weights)
        reader = Reader(dataset, self._settings.data_root, groups, check)
        streamed = rollout and spec.train is not None and spec.train.streaming
        if streamed:
            await self._hand_out_training(step.stage, spec, status)
        label = f"{'roll out' if rollout else 'evaluate'} {part.policy} on {dataset.name}"
        counts: dict[str, float] = {}
        served = time.monotonic()
        while (published := int(counts.get("published", 0))) < total:
            ring = self._jobs.bell.listen()
            await obey(self._jobs, status.id)
            if self._turns.is_awaited(status):
                raise GivesWay(f"Job {status.id} gives way to an older one.")
            # Said again each time: a conductor of the past may have stopped the workers as it ended.
            await self._jobs.activate(part)
            await self._hand_out(status.id, tickets, reader)
            message = None
            if self._policies.served(part.weights):
                served = time.monotonic()
                message = self._ungraded() or await self._held_back(status.id)
            else:
                message = self._policies.trouble or f"loading {part.policy} into the engines"
                if refusal := self._policies.refused(weights, begun):
                    raise refusal
                if time.monotonic() - served > self._settings.engine_deadline_s:
                    raise EngineDown(f"No engine could be brought to serve {part.policy}: {message}")
            progress = Progress(
                phase=step.kind,
                label=label,
                done=published,
                total=total,
                unit="trajectories" if rollout else "problems",
                message=message,
            )
            changed = status.model_copy(update={"progress": progress})
            if streamed:
                training = await self._training(status.id, step.stage)
                changed = changed.model_copy(update={"trainings": [*status.trainings[: step.stage], training]})
            if changed != status:
                status = await self._jobs.write(changed, token)
            await asyncio.sleep(POLL_S)  # however often it rings
            await wait(ring, pause(begun) - POLL_S)
            counts = await self._jobs.counts(status.id, part.name)
        await self._jobs.deactivate()
        turns = spec.protocol.max_turns
        if rollout:
            seconds = time.time() - (status.step_started or time.time())
            summary = summarise(counts, stage=step.stage, policy=part.policy, max_turns=turns, seconds=seconds)
            composition = await self._archive.compose(status.id, part.name)
            summary = summary.model_copy(update={"composition": composition})
            return status.model_copy(update={"rollouts": [*status.rollouts, summary]})
        measured = evaluate(counts, dataset=dataset.name, policy=part.policy, stage=step.stage, max_turns=turns)
        return status.model_copy(update={"evaluations": [*status.evaluations, measured]})

    def _ungraded(self) -> str | None:
        """Why no new group begins, where the verifier is away; raises `Unavailable` when it is so for too long."""
        if not (away := self._grader.away_s):
            return None
        said = f"the verifier at {self._settings.verifier_url} has not answered for {away:.0f} s"
        if away > 0.9 * PATIENCE_S:  # before what waits for verdicts is given up
            raise Unavailable(said, remedy="See its log; submit the job again when it answers.")
        return said

    async def _held_back(self, job: str) -> str | None:
        """Why no new group begins, where that is so for want of a recorder."""
        if await TrajectoryStream(self._redis, job).backlog() < self._settings.high_water:
            return None
        if await self._redis.exists(keys.RECORDER_ALIVE):
            return "waiting for the recorder to catch up"
        return "nobody moves trajectories into the dataset: start `python -m services.trainer.recorder`, or a trainer"

    async def _hand_out(self, job: str, tickets: Tickets, reader: Reader) -> None:
        most = MOST_TICKETS - _TICKET_BATCH
        # Asked each time how many there are: Redis may have lost some that it had acknowledged.
        while (made := await tickets.made()) < reader.groups and await tickets.waiting() <= most:
            # The first batch of a shuffled set, or after a restart, may be behind a million rows.
            reading = asyncio.to_thread(reader.read, made, _TICKET_BATCH)
            await tickets.write(made, await obey_meanwhile(self._jobs, job, reading))

    async def _train(self, step: Step, spec: JobSpec, status: JobStatus, token: int) -> JobStatus:
        """Hand the stage's trajectories to the trainer and wait for its checkpoint."""
        await self._hand_out_training(step.stage, spec, status)
        begun = time.monotonic()
        while True:
            ring = self._jobs.bell.listen()
            training = await self._training(status.id, step.stage)
            update: dict[str, object] = {"trainings": [*status.trainings[: step.stage], training]}
            if training.state is TrainingState.SUCCEEDED:
                return status.model_copy(update=update | {"checkpoint": training.checkpoint})
            await obey(self._jobs, status.id)
            message = training.message
            if not await self._redis.exists(keys.TRAINER_ALIVE):
                message = "no trainer is running: start `torchrun --standalone -m services.trainer`"
            elif training.state is TrainingState.WAITING:
                message = "the trainer prepares"
            update["progress"] = Progress(
                phase="train",
                label=f"train stage {step.stage}",
                done=training.step,
                total=training.steps,
                unit="steps",
                message=message,
            )
            changed = status.model_copy(update=update)
            if changed != status:
                status = await self._jobs.write(changed, token)
            await wait(ring, pause(begun))

    async def _hand_out_training(self, stage: int, spec: JobSpec, status: JobStatus) -> None:
        """Write the stage's task into the stream of trainings, unless that has been done."""
        assert spec.train is not None and status.base
        name = keys.training(status.id, stage)
        train = spec.train
        if train.epochs is None:
            train = train.model_copy(update={"steps": math.ceil((train.steps or 200) / spec.refresh.stages)})
        if await self._redis.exists(name):
            return
        task = TrainingTask(
            job=status.id,
            stage=stage,
            model=self._weights(status, stage),
            tokenizer=status.base,
            groups=status.problems[0],
            group_size=(await self._jobs.spec(spec.rollouts_of or status.id)).sampling.trajectories,
            train=train,
            returns=spec.returns,
            rollouts_of=spec.rollouts_of,
        )
        async with self._redis.pipeline(transaction=False) as pipe:
            # One too many does no harm, a missing one would.
            pipe.xadd(keys.TRAININGS, {"task": task.model_dump_json()})
            pipe.set(name, TrainingStatus(state=TrainingState.WAITING, stage=stage).model_dump_json(), nx=True)
            await pipe.execute()

    async def _training(self, job: str, stage: int) -> TrainingStatus:
        """What the trainer says of a stage that was handed out; raises `DriftError` when it has failed.

        Raises `StaleConductor` where Redis has lost it: whatever else is lost, the job goes on from what is left.
        """
        said = await self._redis.get(keys.training(job, stage))
        if said is None:
            raise StaleConductor(f"Redis has forgotten training stage {stage} of job {job}.")
        training = TrainingStatus.model_validate_json(str(said))
        if training.state is TrainingState.FAILED:
            raise DriftError(f"Training stage {stage} failed: {training.error}")
        return training

    def _weights(self, status: JobStatus, stage: int) -> str:
        """Where the policy of a stage is."""
        weights = status.trainings[stage - 1].checkpoint if stage else status.base
        if weights is None:
            raise DriftError(f"Job {status.id} has no checkpoint of stage {stage}.", remedy="Submit it again.")
        return weights
