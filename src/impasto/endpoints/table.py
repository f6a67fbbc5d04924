"""Every endpoint that is served: id → `Endpoint`. To add one: an Input and its two functions, then a row here."""

from impasto.endpoints.base import Endpoint
from impasto.endpoints.flux_pro import FLUX_PRO, FLUX_PRO_NEW, FLUX_PRO_V1_1

ENDPOINTS: dict[str, Endpoint] = {endpoint.id: endpoint for endpoint in (FLUX_PRO, FLUX_PRO_NEW, FLUX_PRO_V1_1)}
APPS: frozenset[str] = frozenset(endpoint.app for endpoint in ENDPOINTS.values())
