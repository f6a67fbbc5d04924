"""The variables that make a program written for fal talk to our server: a dict to lay over the program's environment.

Two methods. `shim` rewrites fal's addresses inside Python and Node.js programs, over plain HTTP; `connect` leads every
program that knows HTTPS_PROXY, with fal's real host names, by way of `impasto.client.connect`. What is set already is
kept: PYTHONPATH, NODE_OPTIONS, NO_PROXY and certificates are extended, FAL_KEY stays.
"""

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from impasto.client.hosts import DOMAINS, is_fal, server_url

if TYPE_CHECKING:
    from impasto.client.ca import Authority

SHIMS = Path(__file__).parent / "shims"
PYTHON_SHIM = SHIMS / "python"
NODE_SHIM = SHIMS / "node" / "shim.cjs"
NODE_CONNECT = SHIMS / "node" / "connect.cjs"

LOCAL_KEY = "local:local"
TRUST = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "DENO_CERT")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


FileUrls = Literal["server", "fal"]


def environment(base_url: str, *, inherited: Mapping[str, str], file_urls: FileUrls | None = None) -> dict[str, str]:
    """The variables of method `shim` that lead a program, run with `inherited` else, to the server at `base_url`.

    `base_url`: http(s)://HOST[:PORT][/PREFIX]. `file_urls`: on whose host answers name files; None: as inherited.
    Raises `ConfigError` for anything else.
    """
    host = str(server_url(base_url).hostname)
    return {
        **_credentials(inherited),
        "FAL_BASE_URL": base_url.rstrip("/"),
        **({} if file_urls is None else {"FAL_FILE_URLS": file_urls}),
        "PYTHONPATH": _prepended(str(PYTHON_SHIM), inherited.get("PYTHONPATH", "")),
        "NODE_OPTIONS": _node_options(NODE_SHIM, inherited),
        # Where a corporate proxy is set, libraries choose it by the address the program names: fal's.
        **_no_proxy(inherited, (*LOOPBACK, host, *DOMAINS)),
    }


def connect_environment(
    *, proxy: str, tls_address: str, authority: "Authority", inherited: Mapping[str, str]
) -> dict[str, str]:
    """The variables of method `connect`: `proxy` is the listener's URL, `tls_address` the HOST:PORT of its TLS side."""

    def bundle(*roots: Path) -> str:
        return str(authority.bundle(*roots))

    given = {name: [Path(inherited[name])] if inherited.get(name) else [] for name in TRUST}
    usual = given["SSL_CERT_FILE"] or _usual_roots(inherited.get("SSL_CERT_DIR", ""))
    return {
        **_credentials(inherited),
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        **_no_proxy(inherited, LOOPBACK),
        # These replace a program's roots, each in its own libraries …
        "SSL_CERT_FILE": bundle(*usual),
        "CURL_CA_BUNDLE": bundle(*(given["CURL_CA_BUNDLE"] or usual)),
        "REQUESTS_CA_BUNDLE": bundle(*(given["REQUESTS_CA_BUNDLE"] or given["CURL_CA_BUNDLE"] or usual)),
        # … and these add to them.
        "NODE_EXTRA_CA_CERTS": bundle(*given["NODE_EXTRA_CA_CERTS"]),
        "DENO_CERT": bundle(*given["DENO_CERT"]),
        "FAL_TLS_ADDRESS": tls_address,
        "NODE_OPTIONS": _node_options(NODE_CONNECT, inherited),
    }


def upstream_proxy(inherited: Mapping[str, str]) -> str | None:
    """The proxy that the program's own https traffic goes by way of, by the usual variables, or None."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        if inherited.get(name):
            value = inherited[name]
            return value if "://" in value else f"http://{value}"
    return None


def _credentials(inherited: Mapping[str, str]) -> dict[str, str]:
    """A key where the program has none: fal-client and litellm raise without one, before any request."""
    variables: dict[str, str] = {}
    if not inherited.get("FAL_KEY") and not (inherited.get("FAL_KEY_ID") and inherited.get("FAL_KEY_SECRET")):
        variables["FAL_KEY"] = LOCAL_KEY
    if not inherited.get("FAL_AI_API_KEY"):
        variables["FAL_AI_API_KEY"] = variables.get("FAL_KEY") or inherited.get("FAL_KEY") or LOCAL_KEY
    if inherited.get("FAL_FORCE_AUTH_BY_USER") == "1":
        variables["FAL_FORCE_AUTH_BY_USER"] = "0"  # it would ask fal's login service for a token
    return variables


def _prepended(entry: str, value: str) -> str:
    """`entry` in front of the path list `value`, once."""
    rest = [other for other in value.split(os.pathsep) if value and other != entry]
    return os.pathsep.join([entry, *rest])


def _node_options(script: Path, inherited: Mapping[str, str]) -> str:
    value = inherited.get("NODE_OPTIONS", "")
    # NODE_OPTIONS splits at blanks; quotes keep a path together, and backslashes and quotes in them need a backslash.
    quoted = re.sub(r'(["\\])', r"\\\1", str(script))
    option = f'--require "{quoted}"'
    return value if option in value else f"{option} {value}".rstrip()


def _no_proxy(inherited: Mapping[str, str], hosts: tuple[str, ...]) -> dict[str, str]:
    value = inherited.get("no_proxy") or inherited.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if not any(is_fal(host) for host in hosts):  # fal's hosts must go by way of our proxy
        entries = [entry for entry in entries if entry != "*" and not is_fal(entry.lstrip("*.").partition(":")[0])]
    joined = "*" if "*" in entries else ",".join(dict.fromkeys([*entries, *hosts]))  # a star counts only alone
    return {"NO_PROXY": joined, "no_proxy": joined}


def _usual_roots(folders: str) -> list[Path]:
    """What a program trusts by default: certifi's roots, the system's, and those in the `folders` of SSL_CERT_DIR."""
    import certifi

    system = ssl.get_default_verify_paths().cafile
    files = [file for folder in folders.split(os.pathsep) if folder for file in sorted(Path(folder).glob("*.pem"))]
    return [Path(certifi.where()), *([Path(system)] if system else []), *files]
