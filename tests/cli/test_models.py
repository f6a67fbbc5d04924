"""`impasto models` from a checkpoint on disk to a picture from a server, and from a hub to the disk."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ..checkpoints import Made, made, write_diffusers, write_single


@pytest.fixture(scope="module")
def parts() -> Made:
    return made()


def test_the_list_names_licences_and_where_to_get_them(impasto: Callable[..., Any], tmp_path: Path) -> None:
    listed = impasto("models", "list", "--data", str(tmp_path)).stdout
    assert "flux.1-schnell" in listed
    assert "impasto models pull flux.1-fill-dev" in listed
    need = listed.split("To serve them: impasto models pull flux.1-fill-dev && impasto serve --model flux.1-fill-dev")
    assert need[1].split("\n\n")[0].split() == ["fal-ai/flux-pro/v1/fill", "fal-ai/flux-lora-fill"]
    assert "fal-ai/flux-pro/v1/redux" not in listed, "the embedded model takes after images by itself"
    assert "FLUX.1 [dev] Non-Commercial License" in listed
    assert "comes with impasto" in listed


def test_weights_on_disk_become_a_name_and_are_forgotten_again(
    impasto: Callable[..., Any], parts: Made, tmp_path: Path
) -> None:
    file = write_single(tmp_path / "weights", parts, name="portraits.safetensors")
    data = ("--data", str(tmp_path / "data"))
    added = impasto("models", "add", str(file), "--name", "portraits", *data)
    assert added.returncode == 0, added.stderr
    assert "portraits: flux.1-dev" in added.stdout
    assert str(file) in impasto("models", "list", *data).stdout
    checked = impasto("models", "check", "portraits", *data)
    assert [line.split()[0] for line in checked.stdout.splitlines()[:4]] == ["transformer", "autoencoder", "clip", "t5"]
    assert [line.partition(":")[0] for line in checked.stdout.splitlines()[4:]] == [
        "ae.safetensors", "clip_l.safetensors", "portraits.safetensors", "t5xxl_fp16.safetensors",
    ]  # fmt: skip
    assert impasto("models", "add", str(file), "--name", "portraits", *data).returncode == 0, "the same once more"
    other = write_single(tmp_path / "others", parts, name="landscapes.safetensors")
    taken = impasto("models", "add", str(other), "--name", "portraits", *data)
    assert taken.returncode == 2
    assert "impasto models remove portraits" in taken.stderr
    assert str(file) in impasto("models", "list", *data).stdout, "the first one still has its name"
    assert impasto("models", "remove", "portraits", *data).stdout.startswith("portraits: forgotten")
    assert file.is_file()
    gone = impasto("models", "check", "portraits", *data)
    assert gone.returncode == 1
    assert "Traceback" not in gone.stderr


def test_added_weights_that_changed_are_named_with_their_first_bad_tensor(
    impasto: Callable[..., Any], parts: Made, tmp_path: Path
) -> None:
    from impasto.flux.stored import StoredFile

    file = write_single(tmp_path / "weights", parts, name="portraits.safetensors")
    data = ("--data", str(tmp_path / "data"))
    assert impasto("models", "add", str(file), "--name", "portraits", *data).returncode == 0
    entries = StoredFile(file).entries
    for key in ("txt_in.weight", "single_blocks.1.linear2.weight"):  # the second one lies before the first
        with file.open("r+b") as handle:
            handle.seek(entries[key].end - 1)
            handle.write(b"\x7f")
    assert entries["single_blocks.1.linear2.weight"].start < entries["txt_in.weight"].start
    changed = impasto("models", "check", "portraits", *data)
    assert changed.returncode == 1
    assert "portraits.safetensors: SHA-256 is" in changed.stderr
    assert "The first tensor that differs is single_blocks.1.linear2.weight" in changed.stderr
    assert impasto("models", "check", "portraits", "--no-sums", *data).returncode == 0, "names and shapes are right"
    with file.open("r+b") as handle:
        handle.truncate(entries["txt_in.weight"].start + 1)
    cut = impasto("models", "check", "portraits", "--no-sums", *data)
    assert cut.returncode == 1
    assert "it ends inside txt_in.weight" in cut.stderr


def test_half_a_model_is_not_added(impasto: Callable[..., Any], parts: Made, tmp_path: Path) -> None:
    file = write_single(tmp_path / "weights", parts, name="half.safetensors")
    (tmp_path / "weights" / "t5xxl_fp16.safetensors").unlink()
    refused = impasto("models", "add", str(file), "--data", str(tmp_path / "data"))
    assert refused.returncode == 1
    assert "no t5 in" in refused.stderr
    assert "flux.1-dev  " in impasto("models", "list", "--data", str(tmp_path / "data")).stdout
    assert not (tmp_path / "data" / "models").exists()


@pytest.mark.parametrize("layout", ["single", "diffusers"])
def test_a_server_draws_with_a_checkpoint_of_the_published_layout(
    start: Callable[..., Any], parts: Made, tmp_path: Path, layout: str
) -> None:
    if layout == "single":
        path = write_single(tmp_path / "weights", parts, name="small.safetensors")
    else:
        path = write_diffusers(tmp_path / "weights", parts)
    server = start("--model", str(path), IMPASTO_MODEL_PIPELINE="flux", IMPASTO_MODEL_DEVICE="cpu")
    server.until_ready()
    body = {"prompt": "a red fox", "image_size": {"width": 128, "height": 96}, "num_inference_steps": 2, "seed": 3}
    status, output = server.get("/fal-ai/flux-pro", body=body)
    assert status == 200, output
    with urllib.request.urlopen(output["images"][0]["url"], timeout=30) as answer:
        assert answer.read()[:3] == b"\xff\xd8\xff"
    status, answer = server.get("/fal-ai/flux-pro/v1/fill", body={
        "prompt": "x", "image_url": output["images"][0]["url"], "mask_url": output["images"][0]["url"],
    })  # fmt: skip
    assert status == 422
    assert answer["detail"][0]["type"] == "feature_not_supported"
    assert "flux.1-fill-dev" in answer["detail"][0]["msg"]


REPO = "black-forest-labs/FLUX.1-schnell"
COMMIT = "0" * 39 + "1"


class Hub:
    """A hub on loopback with one repository: what `huggingface_hub` asks of the real one."""

    def __init__(self, files: dict[str, bytes], *, gated: bool = False) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.files, self.gated = files, gated
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        if self.gated:
            self._send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"}, body=body)
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "x",
                 "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
                for name, data in self.files.items()
            ]  # fmt: skip
            self._send(request, 200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body=body)
        elif path.startswith("/api/models/"):
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": "x",
                 "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
                for name, data in self.files.items()
            ]  # fmt: skip
            about = {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            self._send(request, 200, json.dumps(about).encode(), {"Content-Type": "application/json"}, body=body)
        else:
            data = self.files.get(path.partition(f"/resolve/{COMMIT}/")[2])
            if data is None:
                self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
                return
            tags = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._send(request, 200, data, tags, body=body)

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str], *, body: bool
    ) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(data)


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Callable[..., Hub]]:
    made: list[Hub] = []

    def start(files: dict[str, bytes], *, gated: bool = False) -> Hub:
        made.append(Hub(files, gated=gated))
        return made[-1]

    yield start
    for each in made:
        each.server.shutdown()
        each.server.server_close()


def test_a_model_is_pulled_checked_and_deleted(
    impasto: Callable[..., Any], hub: Callable[..., Hub], tmp_path: Path
) -> None:
    from impasto.flux.models import FLUX1_SCHNELL

    parts = made(FLUX1_SCHNELL)
    folder = write_diffusers(tmp_path / "source", parts)
    write_single(tmp_path / "single", parts, name="flux1-schnell.safetensors")
    files = {"flux1-schnell.safetensors": tmp_path / "single" / "flux1-schnell.safetensors",
             "ae.safetensors": tmp_path / "single" / "ae.safetensors"}  # fmt: skip
    files |= {str(file.relative_to(folder)): file for part in ("text_encoder", "text_encoder_2", "transformer")
              for file in (folder / part).iterdir()}  # fmt: skip
    source = hub({name: file.read_bytes() for name, file in files.items()} | {"text_encoder/pytorch_model.bin": b"x"})
    where = {"HF_ENDPOINT": source.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    data = ("--data", str(tmp_path / "data"))
    pulled = impasto("models", "pull", "flux.1-schnell", *data, **where)
    assert pulled.returncode == 0, pulled.stderr
    target = tmp_path / "data" / "models" / "flux.1-schnell"
    found = {str(file.relative_to(target)) for file in target.rglob("*.*") if file.is_file()}
    assert "flux1-schnell.safetensors" in found
    assert "text_encoder_2/model.safetensors" in found
    assert not any(name.startswith("transformer/") for name in found), "the same weights are not fetched twice"
    assert not any(name.endswith(".bin") for name in found), "pickles are not even fetched"
    checked = impasto("models", "check", "flux.1-schnell", *data)
    assert checked.returncode == 0, checked.stderr
    assert "flux1-schnell.safetensors: SHA-256 matches" in checked.stdout
    file = target / "flux1-schnell.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    broken = impasto("models", "check", "flux.1-schnell", *data).stderr
    assert "flux1-schnell.safetensors: SHA-256 is" in broken
    assert "The first tensor that differs is" in broken
    assert "Pull it again" in broken
    assert impasto("models", "remove", "flux.1-schnell", *data).stdout == "flux.1-schnell: deleted\n"
    assert not target.exists()


def test_a_gated_model_says_what_to_accept_and_where(
    impasto: Callable[..., Any], hub: Callable[..., Hub], tmp_path: Path
) -> None:
    source = hub({}, gated=True)
    where = {"HF_ENDPOINT": source.url, "HF_HOME": str(tmp_path / "hf")}
    refused = impasto("models", "pull", "flux.1-dev", "--data", str(tmp_path), **where)
    assert refused.returncode == 1
    assert "FLUX.1 [dev] Non-Commercial License" in refused.stderr
    assert "https://huggingface.co/black-forest-labs/FLUX.1-dev" in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_name_that_nobody_knows_is_said(impasto: Callable[..., Any], tmp_path: Path) -> None:
    for verb in ("pull", "remove"):
        refused = impasto("models", verb, "no-such-model", "--data", str(tmp_path))
        assert refused.returncode == 2
        assert "impasto models" in refused.stderr


def test_a_hub_that_is_not_reached_is_one_sentence(impasto: Callable[..., Any], tmp_path: Path) -> None:
    where = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    refused = impasto("models", "pull", "flux.1-dev", "--data", str(tmp_path), **where)
    assert refused.returncode == 1
    assert "could not be fetched" in refused.stderr
    assert "impasto models add PATH" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_folder_that_cannot_be_made_is_one_sentence(impasto: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = impasto("models", "pull", "flux.1-dev", "--data", str(tmp_path / "file" / "data"))
    assert refused.returncode == 1
    assert "cannot be made" in refused.stderr
    assert "Traceback" not in refused.stderr
