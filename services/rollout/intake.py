"""What a job's spec must fulfil before the job is accepted: all that can be known without an engine or the hub."""

import asyncio
from pathlib import Path

from services.rollout.jobs import Jobs
from services.rollout.problems.dataset import count_problems, lies_at_hand
from services.rollout.prompts import find_template, pair_prompts
from shared.errors import NotFound, SpecError
from shared.job import JobSpec, PolicySpec


class Intake:
    """Checks specs for the API and for the dashboard's form."""

    def __init__(self, jobs: Jobs, data_root: Path, templates_root: Path | None) -> None:
        self._jobs = jobs
        self._data_root = data_root
        self._templates_root = templates_root

    async def check(self, spec: JobSpec) -> JobSpec:
        """The spec as it is kept, with the texts of the user's templates in place of their names.

        Raises `SpecError` that names what is wrong: the template, a row at hand, or a job that is referred to.
        Datasets of the hub are checked when the job begins.
        """
        named = spec.protocol.model_dump(include={"template", "evaluation_template"}, exclude_none=True)
        texts = {field: find_template(template, self._templates_root) for field, template in named.items()}
        spec = spec.model_copy(update={"protocol": spec.protocol.model_copy(update=texts)})
        for dataset, prompts in pair_prompts(spec):
            if dataset and lies_at_hand(dataset, self._data_root):
                await asyncio.to_thread(count_problems, dataset, self._data_root, prompts.open)
        if spec.rollouts_of:
            await self._check_rollouts(spec.rollouts_of)
        if spec.start_from:
            await self.find_policy(spec.start_from)
        return spec

    async def find_policy(self, wanted: PolicySpec) -> str:
        """The exported folder of a policy that another job trained; raises `SpecError` where there is none."""
        try:
            status = await self._jobs.get(wanted.job)
        except NotFound as error:
            raise SpecError(f"start_from.job: {error.message}", remedy=error.remedy) from None
        stage = len(status.trainings) if wanted.stage is None else wanted.stage
        checkpoint = status.trainings[stage - 1].checkpoint if 0 < stage <= len(status.trainings) else None
        if checkpoint is None:
            raise SpecError(
                f"start_from: job {wanted.job} has no trained policy of stage {stage}.",
                remedy="Name a job whose training has succeeded.",
            )
        return checkpoint

    async def _check_rollouts(self, source: str) -> None:
        try:
            status, spec = await self._jobs.get(source), await self._jobs.spec(source)
        except NotFound as error:
            raise SpecError(f"rollouts_of: {error.message}", remedy=error.remedy) from None
        if spec.dataset is None:
            raise SpecError(
                f"rollouts_of: job {source} has rolled out nothing itself.",
                remedy=f"Name {spec.rollouts_of}." if spec.rollouts_of else "Name a job with a `dataset`.",
            )
        if status.state.final and not status.rollouts:
            raise SpecError(
                f"rollouts_of: job {source} has {status.state} before its rollouts were complete.",
                remedy="A missing sibling changes its group's weights: submit that job again.",
            )
