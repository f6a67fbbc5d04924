"""Every endpoint that is served: id → `Endpoint`. To add one: an Input and its two functions, then a row here."""

from impasto.endpoints.base import Endpoint
from impasto.endpoints.flux_images import FLUX_IMAGES
from impasto.endpoints.flux_open import FLUX_OPEN
from impasto.endpoints.flux_pro import FLUX_PRO, FLUX_PRO_NEW, FLUX_PRO_V1_1, FLUX_PRO_V1_1_ULTRA

ENDPOINTS: dict[str, Endpoint] = {
    endpoint.id: endpoint
    for endpoint in (FLUX_PRO, FLUX_PRO_NEW, FLUX_PRO_V1_1, FLUX_PRO_V1_1_ULTRA, *FLUX_OPEN, *FLUX_IMAGES)
}
APPS: frozenset[str] = frozenset(endpoint.app for endpoint in ENDPOINTS.values())
