"""For the operator and for load balancers: is the process alive, can it draw, what is it."""

from starlette.responses import Response

from impasto import __version__
from impasto.api.bodies import Json
from impasto.api.gateway import Call


async def healthz(call: Call) -> Response:
    """200 as long as the process answers at all."""
    return Json({"status": "ok", "version": __version__})


async def readyz(call: Call) -> Response:
    """200 when a runner is ready to draw and there is room to store what it draws, else 503 with the reason."""
    dispatcher = call.gateway.dispatcher
    reason = call.gateway.unwell or ("" if dispatcher.ready else dispatcher.reason)
    if dispatcher.ready and not reason:
        return Json({"status": "ready", "version": __version__})
    return Json({"status": "not ready", "reason": reason, "version": __version__}, status_code=503)


async def index(call: Call) -> Response:
    """What this is and where to go on."""
    site, run, queue = call.address.site, call.address.run_base, call.address.queue_door
    return Json(
        {
            "name": "impasto",
            "version": __version__,
            "description": "FLUX text-to-image on this machine, behind fal.ai's wire protocol.",
            "endpoints": {endpoint.id: f"POST {run}/{endpoint.id}" for endpoint in call.gateway.endpoints.values()},
            "queue": queue,
            "proxy": f"{site}/api/fal/proxy",
            "openapi": f"{site}/openapi.json",
            "health": f"{site}/healthz",
            "ready": f"{site}/readyz",
        }
    )
