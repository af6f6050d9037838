"""Conducts jobs: one replica at a time holds the lease and takes the oldest job through its plan, step by step.

While a job trains, the next one has the engines; see `turns`.

Each step may be repeated after a crash without harm, and the status says how many are finished; so any
replica can go on where another stopped, and the workers play on meanwhile. Writes carry the lease's fencing token.
"""

import asyncio
import contextlib
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.rollout.bell import wait
from services.rollout.commands import Interrupted, obey
from services.rollout.engines.policy import Policies
from services.rollout.jobs import Jobs, StaleConductor
from services.rollout.steps import GivesWay, Step, Steps, plan_steps
from services.rollout.turns import Turns
from shared import keys
from shared.errors import DriftError
from shared.job import JobSpec
from shared.status import JobStatus, State, StepTime
from shared.telemetry import get_logger
from shared.tracing import job_span

LEASE_MS = 10_000
POLL_S = 1.0
log = get_logger(__name__)


class Conductor:
    """One replica's candidate for the lease."""

    def __init__(self, redis: Redis, jobs: Jobs, steps: Steps, policies: Policies, turns: Turns, name: str) -> None:
        self._redis = redis
        self._jobs = jobs
        self._steps = steps
        self._policies = policies
        self._turns = turns
        self._name = name

    async def run(self) -> None:
        """Take the lease whenever it is free, and conduct while it is held, until cancelled."""
        while True:
            try:
                if await self._redis.set(keys.CONDUCTOR, self._name, nx=True, px=LEASE_MS):
                    await self._conduct(await self._redis.incr(keys.CONDUCTOR_TOKEN))
            except (RedisError, StaleConductor) as error:
                log.warning("conductor_interrupted", error=str(error))
            await asyncio.sleep(POLL_S)

    async def _conduct(self, token: int) -> None:
        log.info("conducting", token=token)
        self._policies.conducting = True
        conducting = asyncio.create_task(self._take_jobs(token))
        keeping = asyncio.create_task(self._keep_lease())
        try:
            await asyncio.wait((conducting, keeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._policies.conducting = False
            for task in (conducting, keeping):
                task.cancel()
            results = await asyncio.gather(conducting, keeping, return_exceptions=True)
            with contextlib.suppress(RedisError):
                if await self._redis.get(keys.CONDUCTOR) == self._name:
                    await self._redis.delete(keys.CONDUCTOR)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep_lease(self) -> None:
        """Returns when the lease is lost."""
        while await self._redis.get(keys.CONDUCTOR) == self._name:
            await self._redis.pexpire(keys.CONDUCTOR, LEASE_MS)
            await asyncio.sleep(LEASE_MS / 4000)

    async def _take_jobs(self, token: int) -> None:
        conducted: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                ring = self._jobs.bell.listen()
                for job in [job for job, task in conducted.items() if task.done()]:
                    conducted.pop(job).result()
                await self._look(conducted, token)
                await wait(ring, POLL_S)
        finally:
            for task in conducted.values():
                task.cancel()
            await asyncio.gather(*conducted.values(), return_exceptions=True)

    async def _look(self, conducted: dict[str, asyncio.Task[None]], token: int) -> None:
        """Obey the user on the jobs that wait, and take the oldest where all that are older train.

        Nobody plays on for a job that is over or rests, though a conductor that died set the workers on it.
        """
        idle, going = True, set(conducted)
        for status in await self._jobs.unfinished():
            if status.id in conducted:
                idle &= status.phase == "train"
                continue
            asked = await self._jobs.asked(status.id)
            if not asked:
                going.add(status.id)
            if asked == "cancel":
                await self._finish(status, State.CANCELLED, token)
            elif asked == "pause":
                if status.state is not State.PAUSED:
                    await self._jobs.write(status.model_copy(update={"state": State.PAUSED}), token)
            elif idle:
                conducted[status.id] = asyncio.create_task(self._take_through(status, token))
                conducted[status.id].add_done_callback(lambda _: self._jobs.bell.ring())
                idle = False
            elif status.state is State.PAUSED:  # resumed, behind another
                await self._jobs.write(status.model_copy(update={"state": State.QUEUED}), token)
        await self._jobs.deactivate_others(going)

    async def _take_through(self, status: JobStatus, token: int) -> None:
        """From wherever the job stands to its end, or to the next interruption by the user."""
        spec = await self._jobs.spec(status.id)
        steps = plan_steps(spec)
        log.info("job_taken", job=status.id, step=status.steps_done, steps=len(steps))
        status = await self._jobs.write(
            status.model_copy(
                update={
                    "state": State.RUNNING,
                    "started": status.started or time.time(),
                    "steps_total": len(steps),
                }
            ),
            token,
        )
        try:
            for step in steps[status.steps_done :]:
                started = status.step_started or time.time()
                status = status.model_copy(update={"phase": step.kind, "progress": None, "step_started": started})
                with job_span(step.kind, status.id, stage=step.stage):
                    status = await self._carry_out(step, spec, await self._jobs.write(status, token), token)
                spent = StepTime(step=step.kind, stage=step.stage, dataset=step.dataset, seconds=time.time() - started)
                done = {"steps_done": status.steps_done + 1, "timings": [*status.timings, spent], "step_started": None}
                status = await self._jobs.write(status.model_copy(update=done), token)
        except Interrupted:
            return
        except (StaleConductor, RedisError):
            raise
        except DriftError as error:
            await self._fail(status.id, str(error), token)
            return
        except Exception as error:
            # A job that meets a fault of this program must not block the jobs behind it for ever.
            log.exception("job_broken", job=status.id)
            await self._fail(status.id, f"internal error, see the rollout service's log: {error!r}", token)
            return
        await self._finish(status, State.SUCCEEDED, token)

    async def _carry_out(self, step: Step, spec: JobSpec, status: JobStatus, token: int) -> JobStatus:
        """The status after the step; everything but a training needs the engines for itself."""
        if step.kind == "train":
            return await self._steps.carry_out(step, spec, status, token)
        while True:
            with self._turns.want(status):
                while not self._turns.take(status):
                    ring = self._jobs.bell.listen()
                    await obey(self._jobs, status.id)
                    await wait(ring, POLL_S)
                await self._jobs.deactivate_others({status.id})
                try:
                    return await self._steps.carry_out(step, spec, status, token)
                except GivesWay:
                    log.info("job_gives_way", job=status.id)

    async def _fail(self, job: str, error: str, token: int) -> None:
        log.error("job_failed", job=job, error=error)
        status = await self._jobs.get(job)
        await self._finish(status.model_copy(update={"error": error}), State.FAILED, token)

    async def _finish(self, status: JobStatus, state: State, token: int) -> None:
        log.info("job_finished", job=status.id, state=state)
        update = {"state": state, "phase": None, "progress": None, "finished": time.time()}
        await self._jobs.write(status.model_copy(update=update), token)
        await self._steps.sweep(status.id)
