"""Upload tokens: only ours, only for their purpose, only in their time."""

import stat
import time
from pathlib import Path

import pytest

from impasto.api.signing import Claims, load_secret, sign, verify
from impasto.store.records import Acl, Decision

SECRET = b"s" * 32
ACL = Acl(Decision.HIDE, (("u", Decision.ALLOW),))


def claims(**more: object) -> Claims:
    return Claims(**{"kind": "upload", "expires_at": time.time() + 60, "key_id": "k", **more})  # type: ignore[arg-type]


def test_a_token_round_trips() -> None:
    made = claims(file="b/1/x.png", media_type="image/png", file_name="ü.png", lifetime=5.0, acl=ACL)
    assert verify(sign(made, SECRET), kind="upload", secret=SECRET) == made


def test_another_kind_secret_or_time_is_refused() -> None:
    token = sign(claims(), SECRET)
    assert verify(token, kind="put", secret=SECRET) is None
    assert verify(token, kind="upload", secret=b"t" * 32) is None
    assert verify(sign(claims(expires_at=time.time() - 1), SECRET), kind="upload", secret=SECRET) is None


def test_every_changed_character_is_noticed() -> None:
    token = sign(claims(), SECRET)
    body, _, mac = token.partition(".")
    for i in range(len(body)):
        changed = body[:i] + ("A" if body[i] != "A" else "B") + body[i + 1 :]
        assert verify(f"{changed}.{mac}", kind="upload", secret=SECRET) is None
    for broken in ("", ".", body, f"{body}.", f".{mac}", f"{body}.{mac[:-4]}", f"{token}x", "ü.ü", f"{body}.!!!!"):
        assert verify(broken, kind="upload", secret=SECRET) is None


def test_claims_signed_by_us_that_are_no_claims_are_refused() -> None:
    import base64
    import hashlib
    import hmac

    body = b'{"kind":"upload"}'
    text = [base64.urlsafe_b64encode(b).decode().rstrip("=") for b in (body, hmac.digest(SECRET, body, hashlib.sha256))]
    assert verify(".".join(text), kind="upload", secret=SECRET) is None


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "upload.key"
    first = load_secret(path)
    assert len(first) == 32
    assert load_secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["upload.key"]


def test_a_damaged_secret_stops_the_start(tmp_path: Path) -> None:
    from impasto.errors import ConfigError

    (tmp_path / "upload.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"upload\.key"):
        load_secret(tmp_path / "upload.key")
