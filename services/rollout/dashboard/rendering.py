"""How pages are rendered: the templates, and the words for shares, times and durations that they use."""

import time
from datetime import UTC, datetime
from pathlib import Path

from fastapi.templating import Jinja2Templates

from services.rollout.report.markdown import percent
from shared.status import JobStatus


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def clock(unix: float) -> str:
    """UTC, to the minute."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def left(job: JobStatus) -> str | None:
    """Time until the step at hand ends, at the pace that it has had so far."""
    progress = job.progress
    if not progress or not progress.done or not job.step_started or job.state != "running":
        return None
    spent = time.time() - job.step_started
    return duration(spent * (progress.total - progress.done) / progress.done)


def summary(job: JobStatus) -> str:
    """The state in a word, or how far the step at hand is: what fits a tab's title."""
    progress = job.progress
    if job.state != "running" or not progress or not progress.total:
        return job.state
    return f"{100 * progress.done // progress.total} %"


TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates")
TEMPLATES.env.filters |= {"percent": percent, "duration": duration, "clock": clock, "left": left, "summary": summary}
