"""Which role a request has, and which URLs its answer carries: the routing table of the reference, row by row."""

import pytest

from impasto.api.roles import Role, app_of, endpoint_id, locate
from impasto.errors import BadRequest

ID = "/fal-ai/flux-pro"


@pytest.mark.parametrize(
    ("host", "path", "role", "cleaned", "queue_base", "file_base"),
    [
        # our own host: run, and queue below the prefix, however often it stands there
        ("127.0.0.1:8000", ID, Role.RUN, ID, "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "/queue" + ID, Role.QUEUE, ID, "http://127.0.0.1:8000/queue", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "/queue/queue" + ID, Role.QUEUE, ID, "http://127.0.0.1:8000/queue", "http://127.0.0.1:8000"),
        (
            "127.0.0.1:8000",
            "/queue//queue/" + ID,
            Role.QUEUE,
            ID,
            "http://127.0.0.1:8000/queue",
            "http://127.0.0.1:8000",
        ),
        ("[::1]:8000", ID, Role.RUN, ID, "http://[::1]:8000", "http://[::1]:8000"),
        ("draw.example.org", ID, Role.RUN, ID, "http://draw.example.org", "http://draw.example.org"),
        ("queue.example.org", ID, Role.QUEUE, ID, "http://queue.example.org", "http://queue.example.org"),
        ("QUEUE.localhost:8000", ID, Role.QUEUE, ID, "http://QUEUE.localhost:8000", "http://QUEUE.localhost:8000"),
        # fal's own names, through the hosts file or a CONNECT tunnel
        ("queue.fal.run", ID, Role.QUEUE, ID, "https://queue.fal.run", "https://v3.fal.media"),
        ("queue.fal.run:443", ID, Role.QUEUE, ID, "https://queue.fal.run", "https://v3.fal.media"),
        ("fal.run", ID, Role.RUN, ID, "https://queue.fal.run", "https://v3.fal.media"),
        ("fal.run", "/queue" + ID, Role.QUEUE, ID, "https://fal.run/queue", "https://v3.fal.media"),
        ("falrun.com", ID, Role.RUN, ID, "https://queue.fal.run", "https://v3.fal.media"),
        ("queue.falrun.com", ID, Role.QUEUE, ID, "https://queue.fal.run", "https://v3.fal.media"),
        ("rest.fal.ai", "/tokens/", Role.REST, "/tokens", "https://queue.fal.run", "https://v3.fal.media"),
        ("rest.alpha.fal.ai", "/tokens", Role.REST, "/tokens", "https://queue.fal.run", "https://v3.fal.media"),
        ("v3.fal.media", "/files/upload", Role.CDN, "/files/upload", "https://queue.fal.run", "https://v3.fal.media"),
        ("v3b.fal.media", "/files/b/x", Role.CDN, "/files/b/x", "https://queue.fal.run", "https://v3.fal.media"),
        # look-alikes are ordinary hosts
        ("evilfal.run", ID, Role.RUN, ID, "http://evilfal.run", "http://evilfal.run"),
        ("fal.run.example.org", ID, Role.RUN, ID, "http://fal.run.example.org", "http://fal.run.example.org"),
        # slashes at the end, an empty path, owners whose name only begins like the prefix
        ("h", ID + "/", Role.RUN, ID, "http://h", "http://h"),
        ("h", ID + "//", Role.RUN, ID, "http://h", "http://h"),
        ("h", "/", Role.RUN, "/", "http://h", "http://h"),
        ("h", "", Role.RUN, "/", "http://h", "http://h"),
        ("h", "/queue", Role.QUEUE, "/", "http://h/queue", "http://h"),
        ("h", "/queues/flux-pro", Role.RUN, "/queues/flux-pro", "http://h", "http://h"),
    ],
)
def test_role_path_and_bases(host: str, path: str, role: Role, cleaned: str, queue_base: str, file_base: str) -> None:
    address = locate(scheme="http", host=host, path=path)
    assert (address.role, address.path) == (role, cleaned)
    assert (address.queue_base, address.file_base) == (queue_base, file_base)


FALS, OURS = ("https://queue.fal.run", "https://v3.fal.media"), "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("path", "agent", "role", "cleaned", "queue_base", "file_base"),
    [
        # the shim names the host that the program meant: the queue keeps fal's names, files have ours for browsers
        ("/@queue.fal.run" + ID, "", Role.QUEUE, ID, FALS[0], OURS),
        ("/@QUEUE.fal.run/queue" + ID, "", Role.QUEUE, ID, FALS[0], OURS),
        ("/@fal.run" + ID, "", Role.RUN, ID, FALS[0], OURS),
        ("/@fal.run", "", Role.RUN, "/", FALS[0], OURS),
        ("/@rest.fal.ai/storage/upload/initiate", "", Role.REST, "/storage/upload/initiate", FALS[0], OURS),
        ("/@v3.fal.media/files/b/x", "", Role.CDN, "/files/b/x", FALS[0], OURS),
        ("/@ws.fal.run" + ID, "", Role.WS, ID, FALS[0], OURS),
        # fal's for files, too, where the shim asks for it, and for clients that refuse private addresses
        ("/@queue.fal.run+files" + ID, "", Role.QUEUE, ID, *FALS),
        ("/@fal.run" + ID, "ai-sdk/fal/3.0.41 ai-sdk/provider-utils/5.0.40", Role.RUN, ID, *FALS),
        (ID, "ai-sdk/fal/3.0.41", Role.RUN, ID, OURS, OURS),
        # other names of fal's, and names of nobody: ours
        ("/@queue.eu.fal.run" + ID, "", Role.QUEUE, ID, OURS + "/queue", OURS),
        ("/@evil.example" + ID, "", Role.RUN, ID, OURS, OURS),
        # what only looks like it is a path
        ("/@" + ID, "", Role.RUN, "/@" + ID, OURS, OURS),
        ("/x/@fal.run" + ID, "", Role.RUN, "/x/@fal.run" + ID, OURS, OURS),
    ],
)
def test_the_shim_says_in_the_path_which_host_was_meant(
    path: str, agent: str, role: Role, cleaned: str, queue_base: str, file_base: str
) -> None:
    address = locate(scheme="http", host="127.0.0.1:8000", path=path, agent=agent)
    assert (address.role, address.path) == (role, cleaned)
    assert (address.queue_base, address.file_base) == (queue_base, file_base)


@pytest.mark.parametrize(
    ("public_url", "host", "queue_base", "file_base"),
    [
        ("https://draw.example.org", "10.0.0.7:8000", "https://draw.example.org/queue", "https://draw.example.org"),
        ("https://draw.example.org/", "10.0.0.7:8000", "https://draw.example.org/queue", "https://draw.example.org"),
        ("https://example.org/flux", "10.0.0.7:8000", "https://example.org/flux/queue", "https://example.org/flux"),
        ("https://queue.example.org", "10.0.0.7:8000", "https://queue.example.org", "https://queue.example.org"),
        ("https://draw.example.org", "queue.fal.run", "https://queue.fal.run", "https://v3.fal.media"),
    ],
)
def test_a_public_url_replaces_our_host_but_never_fals(
    public_url: str, host: str, queue_base: str, file_base: str
) -> None:
    address = locate(scheme="http", host=host, path="/queue" + ID, public_url=public_url)
    if host.endswith("fal.run"):
        address = locate(scheme="http", host=host, path=ID, public_url=public_url)
    assert (address.role, address.path) == (Role.QUEUE, ID)
    assert (address.queue_base, address.file_base) == (queue_base, file_base)


@pytest.mark.parametrize("host", ["", "a b", "a/b", 'a"b', "a:port", "a\r\nb", "ü.example.org", "user@host", "[::1"])
def test_a_host_header_that_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(BadRequest, match="Host"):
        locate(scheme="http", host=host, path=ID)


@pytest.mark.parametrize(
    ("path", "id_", "app"),
    [
        ("/fal-ai/flux-pro", "fal-ai/flux-pro", "fal-ai/flux-pro"),
        ("fal-ai/flux-pro/", "fal-ai/flux-pro", "fal-ai/flux-pro"),
        ("/fal-ai/flux-pro/v1.1/redux", "fal-ai/flux-pro/v1.1/redux", "fal-ai/flux-pro"),
        ("/workflows/me/mine/run", "workflows/me/mine/run", "workflows/me/mine"),
        ("/comfy/me/mine", "comfy/me/mine", "comfy/me/mine"),
        ("/12345-some-alias", "12345/some-alias", "12345/some-alias"),
        ("/12345-some-alias/sub", "12345/some-alias/sub", "12345/some-alias"),
        ("/word", "word", "word"),
    ],
)
def test_endpoint_ids(path: str, id_: str, app: str) -> None:
    assert endpoint_id(path) == id_
    assert app_of(path) == app
