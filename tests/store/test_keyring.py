"""The keys that sign webhooks: published before they sign and after, encrypted at rest."""

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from impasto.errors import StoreError
from impasto.store.keyring import thumbprint
from impasto.store.secret import pepper_path

DAY = 24 * 3600.0


def kids(store) -> list[str]:
    return [key.kid for key in store.signing_keys()]


async def test_the_first_key_signs_at_once_and_there_is_only_one(open_store, clock):
    stores = [await open_store() for _ in range(3)]
    await asyncio.gather(*[store.ensure_signing_key() for store in stores * 4])
    (key,) = stores[0].signing_keys()
    assert key.active_from == clock.now
    assert key.retire_at is None
    assert Ed25519PrivateKey.from_private_bytes(key.private).public_key().public_bytes_raw() == key.public
    assert stores[1].signing_keys() == [key]


async def test_a_new_key_is_published_before_it_signs_and_the_old_one_after(store, clock):
    await store.ensure_signing_key()
    (old,) = store.signing_keys()
    new = await store.rotate_signing_key(overlap=2 * DAY)
    assert new.active_from == clock.now + 2 * DAY
    assert kids(store) == [old.kid, new.kid]
    clock.advance(4 * DAY - 1)
    assert kids(store) == [old.kid, new.kid]
    clock.advance(1)
    assert kids(store) == [new.kid]


async def test_rotating_again_meanwhile_keeps_the_one_that_signs(store, clock):
    await store.ensure_signing_key()
    (first,) = store.signing_keys()
    second = await store.rotate_signing_key(overlap=2 * DAY)
    clock.advance(DAY)
    third = await store.rotate_signing_key(overlap=2 * DAY)
    assert kids(store) == [first.kid, second.kid, third.kid]
    clock.advance(2 * DAY)  # the third signs; the first retired a day after the second began
    assert kids(store) == [first.kid, second.kid, third.kid]
    clock.advance(DAY)
    assert kids(store) == [second.kid, third.kid]


async def test_after_a_leak_the_old_keys_are_worth_nothing_at_once_and_are_forgotten(store, clock, table):
    await store.ensure_signing_key()
    await store.rotate_signing_key(overlap=2 * DAY)
    new = await store.rotate_signing_key(overlap=0)
    assert kids(store) == [new.kid]
    assert new.active_from == clock.now
    assert [row["kid"] for row in table("signing_keys")] == [new.kid]


async def test_a_rotation_without_a_key_makes_the_first_one(store, clock):
    key = await store.rotate_signing_key(overlap=2 * DAY)
    assert (key.active_from, kids(store)) == (clock.now, [key.kid])


async def test_the_private_key_is_nowhere_on_the_disk_and_not_in_its_repr(store, database):
    await store.ensure_signing_key()
    (key,) = store.signing_keys()
    files = [path for path in database.parent.iterdir() if path.is_file()]
    assert any(key.public in path.read_bytes() for path in files)
    for path in files:
        assert key.private not in path.read_bytes(), path
        assert key.private.hex().encode() not in path.read_bytes(), path
    assert repr(key.private) not in repr(key)


async def test_another_pepper_opens_nothing_and_a_lost_one_stops_the_start(open_store, database):
    store = await open_store()
    await store.ensure_signing_key()
    await store.close()
    pepper_path(database).write_bytes(bytes(32))
    with pytest.raises(StoreError, match="pepper"):
        (await open_store()).signing_keys()
    pepper_path(database).unlink()
    with pytest.raises(StoreError, match="signing_keys"):
        await open_store()


def test_the_key_id_is_the_thumbprint_of_rfc_8037():
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
