"""The dashboard: server-rendered pages at the rollout service's `/`, live through server-sent events."""
