"""Logs are JSON lines on stderr, one event a line, with the service's name and the ids bound to the context."""

import logging
import sys

import structlog

Logger = structlog.stdlib.BoundLogger


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send structlog's and the standard library's records to stderr as JSON lines."""
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    shared_steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared_steps, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_steps,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[handler], force=True)


def get_logger(name: str) -> Logger:
    """The logger of one module."""
    return structlog.get_logger(module=name)
