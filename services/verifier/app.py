"""The verifier over HTTP: `/v1/verify`, the drop-in contracts, probes and metrics."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, Request, Response

from services.verifier import nemo_gym, openrlhf
from services.verifier.metrics import Metrics
from services.verifier.pool import WorkerPool
from services.verifier.service import Verifier
from services.verifier.settings import VerifierSettings
from shared.errors import Unavailable
from shared.grading import VerifyItem, VerifyRequest, VerifyResponse, VerifyResult
from shared.settings import load_settings
from shared.telemetry import configure_logging
from shared.tracing import configure_tracing
from shared.web import equip


def create_app(settings: VerifierSettings | None = None) -> FastAPI:
    """The application; also uvicorn's factory, which hands in no settings."""
    settings = settings or load_settings(VerifierSettings)
    configure_logging("verifier", settings.log_level)
    configure_tracing("verifier")
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with WorkerPool(settings, metrics) as pool:
            app.state.verifier = Verifier(settings, pool, metrics)
            gc.freeze()  # what is loaded now stays: no collection walks it again
            gc.set_threshold(20_000, 50, 100)
            yield

    app = FastAPI(
        title="DRIFT verifier",
        version="1",
        lifespan=lifespan,
        summary="Grades answers: math, multiple choice, strings.",
    )

    @app.post("/v1/verify", response_model=VerifyResponse | VerifyResult, tags=["grading"])
    async def verify(
        request: Request, body: Annotated[VerifyRequest | VerifyItem, Body(openapi_examples=EXAMPLES)]
    ) -> Response:
        """Grade one item, or up to 1,024: `{"items": [...]}`. Results are keyed by id and keep the items' order."""
        verifier: Verifier = request.app.state.verifier
        if isinstance(body, VerifyItem):
            answer = (await verifier.verify([body]))[0]
        else:
            answer = VerifyResponse(results=await verifier.verify(body.items))
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/ready", tags=["probes"])
    async def ready(request: Request) -> dict[str, str]:
        """Every tier can be reached."""
        if not request.app.state.verifier.ready:
            raise Unavailable("The symbolic workers are starting again.", remedy="Try again in a few seconds.")
        return {"status": "ready"}

    app.include_router(openrlhf.router)
    app.include_router(nemo_gym.router)
    return equip(
        app,
        keys=settings.api_keys,
        max_body=settings.verifier_max_body_mb << 20,
        rate=settings.verifier_rate,
        registry=metrics.registry,
    )


EXAMPLES = {
    "one item": {
        "value": {"id": "1", "kind": "math", "response": r"So the answer is \boxed{\frac{1}{2}}.", "answer": "0.5"}
    },
    "a batch": {
        "value": {
            "items": [
                {"id": "1", "kind": "math", "response": "<answer>x = 2</answer>", "answer": "2"},
                {"id": "2", "kind": "choice", "response": "The answer is (C).", "answer": "C", "letters": "ABCD"},
            ]
        }
    },
}
