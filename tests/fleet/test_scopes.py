"""What a runner learns of who asks: enough to tell keys apart."""

from impasto.fleet.scopes import Scopes

KEY = "7d9f2a34-0000-4000-8000-000000000001"


def test_a_scope_is_the_keys_own_and_does_not_give_it_away() -> None:
    scopes = Scopes()
    assert scopes.of(KEY) == scopes.of(KEY)
    assert len({scopes.of(KEY), scopes.of(KEY[:-1] + "2"), scopes.of("")}) == 3
    assert KEY not in scopes.of(KEY)
    assert KEY[:8] not in scopes.of(KEY)


def test_everybody_of_an_open_server_has_a_scope() -> None:
    assert Scopes().of("")


def test_another_server_names_the_same_key_otherwise() -> None:
    assert Scopes().of(KEY) != Scopes().of(KEY)
