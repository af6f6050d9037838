"""Settings of the trainer and of the recorder."""

from typing import Annotated, Literal

from pydantic import Field

from shared.settings import StoreSettings


class RecorderSettings(StoreSettings):
    """What moving trajectories into the dataset may be told."""

    redis_patience_s: float = 300.0
    """How long Redis may be out of reach before the process gives up."""
    flush_seconds: float = 1.0
    """Time that complete groups wait for others to share their shard; longer when a part has hundreds of shards."""
    flush_trajectories: int = 2048
    """Trajectories of complete groups that make a shard without waiting; keep it well below DRIFT_HIGH_WATER."""


class TrainerSettings(RecorderSettings):
    """What the trainer may be told; all of it has a default that fits one machine."""

    trainer_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the matrix products; weights and optimiser are float32. `auto`: bfloat16 on GPU, measured on CPU."""
    trainer_compile: bool = False
    """Compile each layer with torch.compile, which takes a while at the start and needs a C++ compiler."""
    trainer_threads: int = 0
    """CPU threads of a rank; 0 shares the machine's cores evenly among its ranks."""
    micro_batch_tokens: int = 1024
    """Most tokens, padding included, that one rank holds at a time; a longer sequence goes alone. GPUs like more."""
    checkpoint_seconds: float = 120.0
    """Time between two checkpoints of a training; 0 saves after every step."""
    checkpoints_kept: int = 2
    """Checkpoints kept of one training while it lasts."""
    keep_training_state: bool = False
    """Keep the last checkpoint, optimiser included, of a training that has succeeded; else only its export stays."""
    data_patience_s: float = 300.0
    """How long groups may be missing in the dataset after their rollout is over before their training fails."""
    training_attempts: int = 5
    """How often a training may be started from the same step before it is reported as failed."""
    collective_timeout_s: float = 900.0
    """Longest wait of a rank for the others."""
    trainer_metrics: Annotated[str, Field(pattern=r"^[\w.:-]+:\d+$")] | None = None
    """host:port where rank 0 serves `/metrics`; absent serves none."""
