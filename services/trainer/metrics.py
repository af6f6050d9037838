"""What the trainer tells Prometheus: the training at hand, what became of the stream's entries, and the process.

Rank 0 serves it where DRIFT_TRAINER_METRICS says.
"""

from prometheus_client import Counter, Gauge, start_http_server

from shared.telemetry import get_logger
from shared.training import TrainingState, TrainingStatus

_log = get_logger(__name__)

_VALUES = {
    "step": Gauge("drift_training_step", "Steps done of the training at hand"),
    "steps": Gauge("drift_training_steps", "Steps that it has"),
    "loss": Gauge("drift_training_loss", "Weighted loss of its last step"),
    "nll": Gauge("drift_training_nll", "Mean -log p of its supervised tokens, whatever their weight"),
    "mfu": Gauge("drift_training_mfu", "Model FLOPs utilisation of its last step"),
    "grad_norm": Gauge("drift_training_grad_norm", "Gradient norm of its last step, before clipping"),
    "learning_rate": Gauge("drift_training_learning_rate", "Learning rate of its last step"),
    "tokens_per_s": Gauge("drift_training_tokens_per_second", "Trained tokens a second in its last step"),
    "effective_sample_size": Gauge("drift_training_effective_sample_size", "Mean over its groups"),
    "skipped_mass": Gauge("drift_training_skipped_mass", "Share of all weight that is skipped"),
}
_RUNNING = Gauge("drift_training_running", "1 while a training runs")
_ENDED = Counter("drift_trainings_ended", "Trainings by how they ended", ["state"])


def serve_metrics(address: str) -> None:
    """Answer `/metrics` at host:port from a thread of its own; an address that is taken costs the metrics only."""
    host, _, port = address.rpartition(":")
    try:
        start_http_server(int(port), host)
    except OSError as error:
        _log.warning("no metrics, see DRIFT_TRAINER_METRICS", address=address, error=str(error))


def show_training(status: TrainingStatus) -> None:
    """Bring the gauges up to a training's status; one that waits for its turn is not the one at hand."""
    if status.state is TrainingState.WAITING:
        return
    _RUNNING.set(status.state is TrainingState.RUNNING)
    if status.state in (TrainingState.SUCCEEDED, TrainingState.FAILED, TrainingState.CANCELLED):
        _ENDED.labels(status.state).inc()
    for name, gauge in _VALUES.items():
        value: float | None = getattr(status, name)
        if value is not None:
            gauge.set(value)
