"""The engines, as the replica that answers sees them."""

from fastapi import APIRouter

from services.rollout.engines.observation import EngineList
from services.rollout.engines.policy import Policies
from services.rollout.routes import examples
from services.rollout.routes.examples import give


def build_engine_routes(policies: Policies) -> APIRouter:
    """Routes of `/v1/engines`."""
    router = APIRouter(prefix="/v1/engines", tags=["engines"])

    @router.get("", responses=give(examples.ENGINES))
    async def list_engines() -> EngineList:
        """Health, load, limit and breaker of every engine, and its tokens a second."""
        return EngineList(engines=policies.describe_engines())

    return router
