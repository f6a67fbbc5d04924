"""Which endpoints a server serves: the shipped rows, and behind them the user's own. Built at start, passed down.

To add a shipped one: an Input and its two functions (or `dataclasses.replace` of a sibling), then a row in `SHIPPED`.
"""

from collections.abc import Iterable, Iterator, Mapping

from impasto.endpoints.base import Endpoint
from impasto.endpoints.flux_general import FLUX_GENERAL
from impasto.endpoints.flux_images import FLUX_IMAGES
from impasto.endpoints.flux_lora import FLUX_LORA
from impasto.endpoints.flux_lora_tools import FLUX_LORA_TOOLS
from impasto.endpoints.flux_open import FLUX_OPEN
from impasto.endpoints.flux_pro import FLUX_PRO, FLUX_PRO_NEW, FLUX_PRO_V1_1, FLUX_PRO_V1_1_ULTRA
from impasto.endpoints.flux_srpo import FLUX_SRPO
from impasto.endpoints.flux_tools import FLUX_TOOLS
from impasto.errors import ConfigError

SHIPPED: tuple[Endpoint, ...] = (
    FLUX_PRO,
    FLUX_PRO_NEW,
    FLUX_PRO_V1_1,
    FLUX_PRO_V1_1_ULTRA,
    *FLUX_OPEN,
    *FLUX_IMAGES,
    *FLUX_TOOLS,
    *FLUX_SRPO,
    *FLUX_LORA,
    *FLUX_LORA_TOOLS,
    *FLUX_GENERAL,
)


class Endpoints(Mapping[str, Endpoint]):
    """id → `Endpoint`, in the order of its rows. Raises `ConfigError` when two rows have one id."""

    def __init__(self, rows: Iterable[Endpoint] = SHIPPED) -> None:
        self._rows: dict[str, Endpoint] = {}
        for endpoint in rows:
            if endpoint.id in self._rows:
                raise ConfigError(f"two endpoints have the id {endpoint.id!r}. Give yours another one.")
            self._rows[endpoint.id] = endpoint
        self.apps: frozenset[str] = frozenset(endpoint.app for endpoint in self._rows.values())

    def __getitem__(self, id_: str) -> Endpoint:
        return self._rows[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
