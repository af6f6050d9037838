"""What the services share: schemas, returns and weights, the stream, settings, telemetry, clients. No torch."""
