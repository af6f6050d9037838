"""What the local stack may be told, from the environment or `.env`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from services.rollout.settings import RolloutSettings
from shared.settings import Settings, Urls, load_settings

Port = Annotated[int, Field(ge=1, le=65535)]

DATA_ROOTS = (Path("data"), Path("../shared/data"))
"""Where the problem files are looked for when DRIFT_DATA_ROOT is not set: the first of these that is there."""


class LocalSettings(Settings):
    """Ports, folders and the model of the stack that `drift up` and `drift demo` start on this machine."""

    rollout_port: Port = 8000
    """Port of the rollout service."""
    verifier_port: Port = 8001
    """Port of the verifier."""
    engine_port: Port = 8100
    """Port of the vLLM server."""
    redis_port: Port = 6379
    """Port of the Valkey server that the stack starts."""
    redis_url: str | None = None
    """An existing Redis to use; absent starts a Valkey server."""
    engine_urls: Urls = ()
    """Existing engines to use, comma-separated; empty starts one."""
    model: str | None = None
    """Folder or hub name of the model to serve; absent takes SmolLM2-135M-Instruct."""
    trainer_processes: Annotated[int, Field(ge=1)] = 1
    """Processes of the trainer (torchrun --nproc-per-node)."""
    data_root: Path | None = None
    """Folder of problem files; absent takes `data`, or ../shared/data where only that is."""
    runs_root: Path = Path("runs")
    """Folder of jobs' datasets, checkpoints and reports."""
    stack_root: Path = Path(".drift")
    """Folder of the stack's own state: model, logs, Valkey's data."""

    @property
    def problems_root(self) -> Path:
        """The data root in force; it need not exist."""
        found = (folder for folder in DATA_ROOTS if folder.is_dir())
        return (self.data_root or next(found, DATA_ROOTS[0])).resolve()

    @property
    def rollout_url(self) -> str:
        return f"http://127.0.0.1:{self.rollout_port}"

    @property
    def logs(self) -> Path:
        return self.stack_root.resolve() / "logs"

    def to_rollout_settings(self) -> RolloutSettings:
        """What the rollout service of this stack is told; variables of its own take precedence."""
        own = load_settings(RolloutSettings)
        stack: dict[str, object] = {
            "redis_url": self.redis_url or f"redis://127.0.0.1:{self.redis_port}/0",
            "engine_urls": self.engine_urls or (f"http://127.0.0.1:{self.engine_port}",),
            "verifier_url": f"http://127.0.0.1:{self.verifier_port}",
            "data_root": self.problems_root,
            "runs_root": self.runs_root,
        }
        return own.model_copy(update={name: value for name, value in stack.items() if name not in own.model_fields_set})
