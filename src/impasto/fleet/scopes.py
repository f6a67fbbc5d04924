"""What a runner is told about whose request it draws: a name that tells keys apart and says nothing else.

Made anew by every server process, so that names in one process's messages mean nothing to another.
"""

import hmac
import secrets


class Scopes:
    """`of(key_id)`: always the same for one key while the server runs. Callers of an open server share one."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def of(self, key_id: str) -> str:
        return hmac.new(self._secret, key_id.encode(), "sha256").hexdigest()[:32]
