"""Settings: one frozen tree, the last source wins, and a mistake names file, key and what is allowed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from impasto import settings
from impasto.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_toml_is_beaten_by_the_environment_and_that_by_flags(tmp_path: Path):
    file = tmp_path / "impasto.toml"
    file.write_text('data = "/somewhere"\n[server]\nport = 1\nhost = "127.0.0.2"\n[queue]\nslots = 5\n')
    tree = settings.load(
        file=file,
        environment={"IMPASTO_SERVER_PORT": "2", "IMPASTO_QUEUE_SLOTS": "6", "PATH": "/bin"},
        flags={"server.port": 3, "model.name": None},
    )
    assert (tree.server.port, tree.queue.slots, tree.server.host, tree.data) == (3, 6, "127.0.0.2", Path("/somewhere"))
    assert tree.model.name == "impasto-mini"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1\n", ["server.prot", "server.port"]),
        ("[server]\nport = 'eighty'\n", ["server.port", "eighty", "Default: 8000"]),
        ("[model]\ndevice = 'tpu'\n", ["model.device", "'auto', 'cpu' or 'cuda'"]),
        ("[queue]\nslots = 0\n", ["queue.slots", "greater than or equal to 1"]),
        ("[safety]\nthresholds = [0.1]\n", ["safety.thresholds"]),
        ("not toml", ["not valid TOML"]),
        ("server = 3\n", ["server"]),
    ],
)
def test_a_mistake_in_the_file_names_file_key_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]):
    file = tmp_path / "impasto.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settings.load(file=file, environment={})
    for word in [str(file), *words]:
        assert word in caught.value.message


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "impasto.toml"
    file.write_text('data = "~/data"\n[lora]\nfolder = "~/loras"\n')
    tree = settings.load(file=file, environment={"IMPASTO_MODEL_FOLDER": "~/models", "IMPASTO_MODEL_SPEED_FOLDER": "~"})
    folders = (tree.data, tree.lora.folder, tree.model.folder, tree.model.speed_folder)
    assert folders == (tmp_path / "data", tmp_path / "loras", tmp_path / "models", tmp_path)
    with pytest.raises(ConfigError, match="IMPASTO_DATA"):
        settings.load(environment={"IMPASTO_DATA": "~no-such-user-here/data"})


@pytest.mark.parametrize("service", ["IMPASTO", "IMPASTO_SERVER", "IMPASTO_MODEL_CACHE"])
def test_what_kubernetes_tells_of_a_service_called_impasto_is_no_setting(service: str):
    told = {
        f"{service}_SERVICE_HOST": "10.0.0.11",
        f"{service}_SERVICE_PORT": "8000",
        f"{service}_SERVICE_PORT_HTTP": "8000",
        f"{service}_PORT": "tcp://10.0.0.11:8000",
        f"{service}_PORT_8000_TCP": "tcp://10.0.0.11:8000",
        f"{service}_PORT_8000_TCP_PROTO": "tcp",
        f"{service}_PORT_8000_TCP_PORT": "8000",
        f"{service}_PORT_8000_TCP_ADDR": "10.0.0.11",
    }
    assert settings.load(environment=told) == settings.load(environment={})
    assert settings.load(environment=told | {"IMPASTO_SERVER_PORT": "9000"}).server.port == 9000
    with pytest.raises(ConfigError, match="IMPASTO_PORT is not a setting"):
        settings.load(environment={"IMPASTO_PORT": "9000"})


def test_an_unknown_environment_name_stops_the_start_and_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"IMPASTO_PROT is not a setting.*IMPASTO_SERVER_PORT"):
        settings.load(environment={"IMPASTO_PROT": "1"})


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        settings.load(file=tmp_path / "absent.toml", environment={})


def test_the_tree_is_frozen():
    tree = settings.load(environment={})
    with pytest.raises(ValidationError):
        tree.server.port = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_every_setting_has_a_sentence_an_environment_name_and_a_row_in_the_docs():
    page = DOCS.read_text(encoding="utf-8")
    for key, sentence, default in settings.describe():
        assert sentence.endswith("."), key
        name = settings.PREFIX + key.replace(".", "_").upper()
        assert f"| `{key}` | `{name}` | `{default}` | {sentence} |" in page, (
            f"{key}: run python -m impasto.settings > docs/settings.md"
        )


@pytest.mark.parametrize(
    ("host", "mode", "required"),
    [
        ("127.0.0.1", "auto", False),
        ("localhost", "auto", False),
        ("::1", "auto", False),
        ("0.0.0.0", "auto", True),
        ("192.0.2.7", "auto", True),
        ("127.0.0.1", "keys", True),
        ("0.0.0.0", "open", False),
    ],
)
def test_keys_are_required_off_loopback(host: str, mode: str, required: bool):
    tree = settings.load(environment={}, flags={"server.host": host, "auth.mode": mode})
    assert tree.keys_required is required


@pytest.mark.parametrize(
    ("url", "required"),
    [
        ("https://draw.example.org", True),
        ("http://192.0.2.7:8000", True),
        ("http://127.0.0.1:9000", False),
        ("http://localhost", False),
        ("http://draw.localhost:8000", False),
    ],
)
def test_keys_are_required_behind_a_public_name(url: str, required: bool):
    flags = {"server.host": "127.0.0.1", "server.public_url": url}
    assert settings.load(environment={}, flags=flags).keys_required is required
    assert not settings.load(environment={}, flags=flags | {"auth.mode": "open"}).keys_required


def test_which_model_serves_what_is_a_table_in_the_file_and_pairs_in_the_environment(tmp_path):
    file = tmp_path / "impasto.toml"
    file.write_text('[model.serve]\nflux-pro = "impasto-mini"\n"flux-pro-1.1" = "other"\n')
    expected = {"flux-pro": "impasto-mini", "flux-pro-1.1": "other"}
    assert settings.load(file=file, environment={}).model.serve == expected
    pairs = {"IMPASTO_MODEL_SERVE": "flux-pro=impasto-mini, flux-pro-1.1=other"}
    assert settings.load(environment=pairs).model.serve == expected
    many = {"IMPASTO_SERVER_ENDPOINTS": "mine:table,theirs:table"}
    assert settings.load(environment=many).server.endpoints == ("mine:table", "theirs:table")
