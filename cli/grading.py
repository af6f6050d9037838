"""Grade one response, on this machine or by a running verifier."""

from services.verifier.grading.tiers import Decision, decide, extract
from services.verifier.metrics import Metrics
from services.verifier.pool import WorkerPool
from services.verifier.service import Graded, Verifier
from services.verifier.settings import VerifierSettings
from shared.grading import VerifyItem, VerifyResult
from shared.settings import load_settings
from shared.verifier_client import VerifierClient


async def grade(item: VerifyItem, url: str | None) -> VerifyResult:
    """By the verifier at `url`; without one the server's own tiers do it in this process."""
    settings = load_settings(VerifierSettings)
    return await (_grade_remotely(item, url, settings) if url else _grade_locally(item, settings))


async def _grade_remotely(item: VerifyItem, url: str, settings: VerifierSettings) -> VerifyResult:
    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    async with VerifierClient(url, key) as client:
        return (await client.verify([item]))[0]


async def _grade_locally(item: VerifyItem, settings: VerifierSettings) -> VerifyResult:
    """The server's tiers in this process; symbolic workers are started only where they are needed."""
    extracted = extract(item)
    decision = decide(item, extracted)
    if isinstance(decision, Decision):
        return Graded(extracted, decision, ms=0.0, cached=False).result(item)
    metrics = Metrics()
    async with WorkerPool(settings.model_copy(update={"verifier_workers": 1}), metrics) as pool:
        return (await Verifier(settings, pool, metrics).verify([item]))[0]
