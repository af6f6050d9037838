"""What the services share: schemas, returns and weights, the stream, settings, telemetry, clients. No torch."""

__version__ = "0.1.0"
"""The project's; images hold no package metadata of it."""
