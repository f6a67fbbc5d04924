"""Which hosts are fal's, and which URL can be a server's."""

from urllib.parse import SplitResult, urlsplit

from impasto.errors import ConfigError

DOMAINS = ("fal.run", "fal.ai", "fal.media", "falrun.com")


def is_fal(host: str) -> bool:
    """Whether `host` is one of fal's names."""
    host = host.lower().rstrip(".")
    return any(host == domain or host.endswith(f".{domain}") for domain in DOMAINS)


def server_url(base_url: str) -> SplitResult:
    """The parts of a server's URL. Raises `ConfigError` unless it is http(s)://HOST[:PORT][/PREFIX]."""
    try:
        url = urlsplit(base_url)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and not url.query and not url.fragment
        _ = url.port  # raises when it is no number
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"server URL {base_url!r}: must be http://HOST[:PORT] or https://HOST[:PORT].")
    return urlsplit(base_url)
