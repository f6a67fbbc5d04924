"""What is set already is kept, what leads to us is added."""

import os
from pathlib import Path

import pytest

from impasto.client import ca
from impasto.client.environment import PYTHON_SHIM, connect_environment, environment, upstream_proxy
from impasto.errors import ConfigError

URL = "http://127.0.0.1:8000"


def connected(authority: ca.Authority, **inherited: str) -> dict[str, str]:
    return connect_environment(
        proxy="http://127.0.0.1:3128", tls_address="127.0.0.1:8443", authority=authority, inherited=inherited
    )


@pytest.mark.parametrize(
    ("inherited", "key"),
    [
        ({}, "local:local"),
        ({"FAL_KEY": ""}, "local:local"),
        ({"FAL_KEY_ID": "a"}, "local:local"),
        ({"FAL_KEY": "a:b"}, None),
        ({"FAL_KEY_ID": "a", "FAL_KEY_SECRET": "b"}, None),
    ],
)
def test_a_key_is_given_only_where_there_is_none(inherited: dict[str, str], key: str | None) -> None:
    assert environment(URL, inherited=inherited).get("FAL_KEY") == key


def test_login_by_user_is_switched_off() -> None:
    """It would ask fal's login service for a token."""
    assert environment(URL, inherited={"FAL_FORCE_AUTH_BY_USER": "1"})["FAL_FORCE_AUTH_BY_USER"] == "0"
    assert "FAL_FORCE_AUTH_BY_USER" not in environment(URL, inherited={})


def test_lists_are_extended_and_not_twice() -> None:
    inherited = {
        "PYTHONPATH": f"/one{os.pathsep}/two",
        "NODE_OPTIONS": "--max-old-space-size=100",
        "NO_PROXY": "a.example",
    }
    once = environment(URL, inherited=inherited)
    assert once["PYTHONPATH"].split(os.pathsep) == [str(PYTHON_SHIM), "/one", "/two"]
    assert once["NODE_OPTIONS"].endswith(" --max-old-space-size=100")
    assert once["NO_PROXY"].split(",")[0] == "a.example"
    assert {"fal.run", "fal.ai", "fal.media", "127.0.0.1"} <= set(once["NO_PROXY"].split(","))
    assert once["no_proxy"] == once["NO_PROXY"]
    assert environment(URL, inherited={**inherited, **once}) == {k: v for k, v in once.items() if "KEY" not in k}


def test_a_program_that_uses_no_proxy_at_all_goes_on_so() -> None:
    """Beside other entries a star means nothing."""
    assert environment(URL, inherited={"NO_PROXY": "*"})["NO_PROXY"] == "*"


def test_the_shim_leaves_proxies_and_certificates_alone() -> None:
    names = set(environment(URL, inherited={"HTTPS_PROXY": "http://corporate:1", "SSL_CERT_FILE": "/x"}))
    assert names == {"FAL_BASE_URL", "FAL_KEY", "FAL_AI_API_KEY", "PYTHONPATH", "NODE_OPTIONS", "NO_PROXY", "no_proxy"}


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x?y", "http://x#y", "http://x:y"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be http://HOST"):
        environment(url, inherited={})


def test_connect_keeps_the_roots_that_a_program_has_chosen(authority: ca.Authority, tmp_path: Path) -> None:
    for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "DENO_CERT"):
        own = tmp_path / name
        own.write_text(f"roots of {name}")
        content = Path(connected(authority, **{name: str(own)})[name]).read_text()
        assert content == f"roots of {name}\n{authority.certificate.read_text()}"


def test_connect_trusts_the_public_roots_by_default(authority: ca.Authority, tmp_path: Path) -> None:
    (tmp_path / "corporate.pem").write_text("roots of a folder")
    content = Path(connected(authority, SSL_CERT_DIR=str(tmp_path))["SSL_CERT_FILE"]).read_text()
    assert content.count("BEGIN CERTIFICATE") > 100
    assert "roots of a folder" in content
    assert authority.certificate.read_text() in content


def test_connect_goes_around_nothing_that_leads_to_fal(authority: ca.Authority) -> None:
    exceptions = connected(authority, NO_PROXY="*, .fal.run,queue.fal.run:443, a.example")["NO_PROXY"].split(",")
    assert exceptions == ["a.example", "127.0.0.1", "localhost", "::1"]


@pytest.mark.parametrize(
    ("inherited", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://a:1"}, None),
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "b:2"}, "http://b:2"),
        ({"ALL_PROXY": "socks5://a:1"}, "socks5://a:1"),
    ],
)
def test_the_programs_own_proxy_is_found(inherited: dict[str, str], proxy: str | None) -> None:
    assert upstream_proxy(inherited) == proxy
