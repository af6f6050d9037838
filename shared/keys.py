"""Names in Redis: all begin with `drift:`, the keys of one job share the hash tag `{JOB}`. Nothing is ever flushed."""

JOBS = "drift:jobs"
"""Sorted set of job ids by time of submission, seconds."""
UNFINISHED = "drift:jobs:unfinished"
"""The same, of the jobs that are not over."""
CONDUCTOR = "drift:conductor"
"""String with expiry: who may advance jobs; its fencing token is `CONDUCTOR_TOKEN`'s value when it was taken."""
CONDUCTOR_TOKEN = "drift:conductor:token"
"""Counter: a new fencing token for each holder."""
ACTIVE = "drift:active"
"""String: the part of a job that the workers of all replicas roll out now, JSON."""
TRAININGS = "drift:trainings"
"""Stream of training tasks, consumer group `trainer`."""
TRAINER_ALIVE = "drift:trainer:alive"
"""String with expiry: set while a trainer waits or works."""
RECORDER_ALIVE = "drift:recorder:alive"
"""String with expiry: set while a recorder or a trainer moves trajectories into the dataset."""

TRAINER_GROUP = "trainer"
ROLLOUT_GROUP = "rollout"


def idempotency(key: str) -> str:
    """String with expiry: the job that this idempotency key has made."""
    return f"drift:idempotency:{key}"


def spec(job: str) -> str:
    """String: the job's spec, JSON."""
    return f"drift:{{{job}}}:spec"


def status(job: str) -> str:
    """String: the job's status, JSON; only the conductor writes it, the API's pause and cancel go through `command`."""
    return f"drift:{{{job}}}:status"


def fence(job: str) -> str:
    """String `TOKEN:WRITES`: the fencing token that wrote the status last (a lower one is of the past), and how
    often it has written it."""
    return f"drift:{{{job}}}:fence"


def command(job: str) -> str:
    """String: what the user asked of the job: `pause` or `cancel`."""
    return f"drift:{{{job}}}:command"


def events(job: str) -> str:
    """Capped stream of the job's events, for `/events`; expires a week after the job's end."""
    return f"drift:{{{job}}}:events"


def history(job: str) -> str:
    """List of samples of the job's sums over time, for curves."""
    return f"drift:{{{job}}}:history"


def tickets(job: str, part: str) -> str:
    """Stream of groups to roll out, consumer group `rollout`."""
    return f"drift:{{{job}}}:{part}:tickets"


def tickets_made(job: str, part: str) -> str:
    """Counter: groups whose tickets have been written so far."""
    return f"drift:{{{job}}}:{part}:tickets:made"


def done(job: str, part: str) -> str:
    """Bitmap: bit group * group_size + k is set once that trajectory is published."""
    return f"drift:{{{job}}}:{part}:done"


def counts(job: str, part: str) -> str:
    """Hash of sums over the published trajectories of one part."""
    return f"drift:{{{job}}}:{part}:counts"


def trajectories(job: str) -> str:
    """Stream of trajectories, consumer group `trainer`."""
    return f"drift:{{{job}}}:trajectories"


def dead_letters(job: str) -> str:
    """Capped stream of entries that could not be read, with the reason."""
    return f"drift:{{{job}}}:dead"


def training(job: str, stage: int) -> str:
    """String: the status of one training, JSON, written by the trainer."""
    return f"drift:{{{job}}}:training:{stage}"
