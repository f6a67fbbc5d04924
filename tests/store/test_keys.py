"""API keys: shown once, hashed at rest, dead when revoked."""

import stat

import pytest

from impasto.errors import StoreError
from impasto.store.records import Key


async def test_a_created_key_authenticates(store, clock):
    key, secret = await store.create_key(alias="laptop", scopes=["API", "ADMIN"])
    assert key == Key(key_id=key.key_id, alias="laptop", scopes=("API", "ADMIN"), created_at=clock.now)
    key_id, _, password = secret.partition(":")
    assert key_id == key.key_id
    assert len(password) == 32
    assert int(password, 16) >= 0
    assert store.authenticate(key_id, password) == key
    (listed,) = store.keys()
    assert listed.key_id == key_id


async def test_anything_else_does_not(store):
    _, secret = await store.create_key(alias="one", scopes=["API"])
    key_id, _, password = secret.partition(":")
    _, other = await store.create_key(alias="two", scopes=["API"])
    for a, b in [
        (key_id, password[:-1]),
        (key_id, password.upper() + "A"),
        (key_id, ""),
        (key_id, other.partition(":")[2]),
        ("nobody", password),
        ("", ""),
        ("\ud800", "\ud800"),
        (key_id.upper() + "x", password),
    ]:
        assert store.authenticate(a, b) is None, (a, b)


async def test_a_revoked_key_is_dead_at_once_and_for_every_process(open_store):
    ours, theirs = await open_store(), await open_store()
    key, secret = await ours.create_key(alias="one", scopes=["API"])
    key_id, _, password = secret.partition(":")
    assert theirs.authenticate(key_id, password) is not None
    assert await ours.revoke_key(key_id)
    assert not await ours.revoke_key(key_id)
    assert not await ours.revoke_key("nobody")
    assert ours.authenticate(key_id, password) is None
    assert theirs.authenticate(key_id, password) is None
    assert ours.keys()[0].revoked_at is not None
    assert key.revoked_at is None


async def test_the_secret_is_nowhere_on_the_disk(store, database):
    _, secret = await store.create_key(alias="one", scopes=["API"])
    password = secret.partition(":")[2]
    assert store.authenticate(*secret.split(":")) is not None
    files = [path for path in database.parent.iterdir() if path.is_file()]
    assert any(path.name.endswith("-wal") and path.stat().st_size > 0 for path in files)
    for path in files:
        content = path.read_bytes()
        assert password.encode() not in content, path.name
        assert bytes.fromhex(password) not in content, path.name


async def test_the_pepper_lies_beside_the_database_for_its_owner_only(store, database):
    pepper = database.with_name(database.name + "-pepper")
    assert len(pepper.read_bytes()) == 32
    assert pepper.read_bytes() not in database.read_bytes()
    assert stat.S_IMODE(pepper.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert sorted(path.name for path in database.parent.iterdir() if "pepper" in path.name) == [pepper.name]


async def test_keys_outlive_a_restart(open_store):
    former = await open_store()
    _, secret = await former.create_key(alias="one", scopes=["API"])
    await former.close()
    assert (await open_store()).authenticate(*secret.split(":")) is not None


async def test_a_lost_or_damaged_pepper_stops_the_start_with_the_remedy(open_store, database):
    former = await open_store()
    await former.create_key(alias="one", scopes=["API"])
    await former.close()
    pepper = database.with_name(database.name + "-pepper")
    content = pepper.read_bytes()
    pepper.write_bytes(content[:-1])
    with pytest.raises(StoreError, match="damaged"):
        await open_store()
    pepper.unlink()
    with pytest.raises(StoreError, match="Restore it from the backup"):
        await open_store()
    assert not pepper.exists()


async def test_use_is_noted_once_a_minute_and_not_at_every_poll(store, clock):
    key, secret = await store.create_key(alias="one", scopes=["API"])
    before = store.counters["operations"]
    for _ in range(50):
        store.authenticate(*secret.split(":"))
    await store.sweep()
    assert store.counters["operations"] == before + 2
    assert store.keys()[0].last_used_at == clock.now
    clock.advance(61)
    store.authenticate(*secret.split(":"))
    await store.sweep()
    assert store.keys()[0].last_used_at == clock.now
    assert key.last_used_at is None
