"""Keeps the engines full: leases groups of the active part and plays their episodes, without any barrier.

A new group begins as soon as there is a free place, never because another has ended. Beyond the high-water
mark of the stream no new group begins; those that have begun always finish, a dead worker's too, since only
complete groups leave the stream. The last groups, when they would fill the engines no more than once, begin together:
their first turns go before the others' later ones, and the end of a job is one turn long and not a whole episode.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.rollout.bell import wait
from services.rollout.engines.engine import Answer, Sampling
from services.rollout.engines.pool import Engines
from services.rollout.episode import Episode, run_episode
from services.rollout.evaluation import count
from services.rollout.grader import Grader
from services.rollout.jobs import Jobs, Part
from services.rollout.prompts import Message, Prompts, load_prompts
from services.rollout.tickets import LEASE_MS, Ticket, Tickets
from shared import keys
from shared.errors import NotFound, SpecError
from shared.job import JobSpec
from shared.stream import Superseded, TrajectoryStream
from shared.telemetry import get_logger
from shared.tracing import trajectory_span
from shared.trajectory import Trajectory

POLL_S = 1.0
LEASE_WAIT_S = 0.25
"""Tickets arrive at once while it lasts; but a worker that waits for them sees nothing else."""
RECLAIM_S = 1.0
"""Time between two looks for the tickets of dead workers."""
log = get_logger(__name__)


@dataclass(frozen=True)
class _Desk:
    """What playing the groups of one part needs."""

    part: Part
    active: str
    """The part as `keys.ACTIVE` holds it."""
    spec: JobSpec
    prompts: Prompts
    sampling: Sampling
    tickets: Tickets
    stream: TrajectoryStream


class Worker:
    """One replica's worker."""

    def __init__(self, redis: Redis, jobs: Jobs, engines: Engines, grader: Grader, high_water: int) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._redis = redis
        self._jobs = jobs
        self._engines = engines
        self._grader = grader
        self._high_water = high_water
        self._playing: dict[str, asyncio.Task[None]] = {}
        self._in_flight = 0

    async def run(self) -> None:
        """Work on whatever part is active, until cancelled."""
        while True:
            try:
                ring = self._jobs.bell.listen()
                part = await self._jobs.active()
                if part is None:
                    await wait(ring, POLL_S)
                else:
                    await self._work(part)
            except (RedisError, NotFound) as error:
                log.warning("worker_interrupted", error=str(error))
                await asyncio.sleep(1.0)

    async def _work(self, part: Part) -> None:
        spec = await self._jobs.spec(part.job)
        temperature = spec.sampling.temperature if part.phase == "rollout" else 0.0
        desk = _Desk(
            part,
            part.model_dump_json(),
            spec,
            load_prompts(spec.protocol.template_for(part.phase), spec.protocol.max_turns),
            Sampling(temperature, spec.sampling.max_tokens),
            Tickets(self._redis, part),
            TrajectoryStream(self._redis, part.job),
        )
        await desk.tickets.prepare()
        self._engines.want(part.weights)
        clock = asyncio.get_running_loop().time
        keeper = asyncio.create_task(self._keep_leases(desk.tickets))
        looked = reclaimed = float("-inf")
        more = True
        ring = self._jobs.bell.listen()
        try:
            while True:
                if clock() - looked > POLL_S or ring.is_set():
                    ring = self._jobs.bell.listen()
                    if await self._jobs.active() != part:
                        return
                    looked, left = clock(), part.groups - await desk.tickets.made() + await desk.tickets.waiting()
                    self._engines.line.shortest_first = left * part.group_size <= self._engines.capacity
                    more = left > 0 or not part.groups
                if clock() - reclaimed > RECLAIM_S and (room := self._room(part)):
                    self._begin(desk, await desk.tickets.reclaim(self.name, room))
                    reclaimed = clock()
                await self._fill(desk, more)
        finally:
            keeper.cancel()
            await self._stop(desk.tickets)

    def _room(self, part: Part) -> int:
        """Groups that may begin: none while nobody grades, and at the end of a job all that are left."""
        if self._grader.away_s:
            return 0
        most = self._engines.capacity * (2 if self._engines.line.shortest_first else 1)
        return max(0, -(-(most - self._in_flight) // part.group_size))

    async def _fill(self, desk: _Desk, more: bool) -> None:
        """Begin groups while there are more and there is room, else wait for room."""
        room = self._room(desk.part) if more else 0
        if not room or await desk.stream.backlog() >= self._high_water:
            self._engines.freed.clear()
            await wait(self._engines.freed, POLL_S)
            return
        leased = await desk.tickets.lease(self.name, room, block_ms=int(LEASE_WAIT_S * 1000))
        self._begin(desk, leased)
        if 0 < len(leased) < room:
            self._jobs.bell.ring()  # the tickets are running out

    def _begin(self, desk: _Desk, leased: Sequence[Ticket]) -> None:
        for ticket in leased:
            if ticket.id not in self._playing:
                self._in_flight += desk.part.group_size
                self._playing[ticket.id] = asyncio.create_task(self._play_group(desk, ticket))

    async def _play_group(self, desk: _Desk, ticket: Ticket) -> None:
        try:
            async with asyncio.TaskGroup() as siblings:
                for k in range(desk.part.group_size):
                    siblings.create_task(self._play(desk, ticket, k)).add_done_callback(self._leave)
            await desk.tickets.punch(ticket)
        except* (RedisError, Superseded) as errors:
            # The ticket stays leased; once the lease has run out somebody, perhaps this worker, plays the rest.
            log.warning("group_interrupted", job=desk.part.job, group=ticket.group, error=str(errors.exceptions[0]))
        finally:
            self._playing.pop(ticket.id, None)
            if not self._playing:
                self._jobs.bell.ring()  # perhaps that was all

    async def _play(self, desk: _Desk, ticket: Ticket, k: int) -> None:
        part, group_size = desk.part, desk.part.group_size
        engine_used = ""

        async def sample(context: Sequence[Message]) -> Answer:
            nonlocal engine_used
            answer, engine_used = await self._engines.answer(part.model, context, desk.sampling, ticket.group)
            return answer

        bit = ticket.group * group_size + k
        if ticket.again and await self._redis.getbit(keys.done(part.job, part.name), bit):
            return
        protocol, graded = desk.spec.protocol, ticket.problem
        if protocol.grading != "own":
            graded = graded.model_copy(update={"kind": protocol.grading})
        with trajectory_span(part.job, part=part.name, group=ticket.group, k=k):
            try:
                opening = desk.prompts.open(ticket.problem)
            except SpecError as error:  # checked before the job began, but a hub's dataset may have changed since
                episode = Episode(ending="failed", reason=str(error))
            else:
                try:
                    episode = await run_episode(
                        opening,
                        protocol.feedback,
                        protocol.max_turns,
                        sample,
                        lambda response: self._grader.grade(graded, response),
                    )
                except Exception as error:  # a fault of ours: it would come back as often as somebody plays the group
                    log.exception("episode_broken", job=part.job, group=ticket.group, k=k)
                    episode = Episode(ending="failed", reason=f"a fault of the rollout service: {error!r}")
        trajectory = Trajectory(
            job=part.job,
            phase=part.phase,
            stage=part.stage,
            dataset=part.dataset,
            policy=part.policy,
            group=ticket.group,
            k=k,
            group_size=group_size,
            problem=ticket.problem,
            turns=episode.turns,
            ending=episode.ending,
            reason=episode.reason,
            engine=engine_used,
            model=part.model,
        )
        # The engines may have been given the next part's weights before this worker sees that they have gone to it.
        await desk.stream.publish(trajectory, count(trajectory), desk.active)

    def _leave(self, _: asyncio.Task[None]) -> None:
        self._in_flight -= 1
        self._engines.freed.set()

    async def _keep_leases(self, tickets: Tickets) -> None:
        while True:
            await asyncio.sleep(LEASE_MS / 3000)
            with contextlib.suppress(RedisError):
                await tickets.renew(self.name, list(self._playing))

    async def _stop(self, tickets: Tickets) -> None:
        """Leave no episode behind, and let others have the tickets at once."""
        unfinished = dict(self._playing)
        for task in unfinished.values():
            task.cancel()
        await asyncio.gather(*unfinished.values(), return_exceptions=True)
        self._playing.clear()
        with contextlib.suppress(RedisError):
            await tickets.give_back(self.name, list(unfinished))
