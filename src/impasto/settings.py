"""One frozen settings tree. `impasto.toml` < `IMPASTO_*` environment < command-line flags.

Built once in `cli` and passed down; nobody else reads the environment. Every field carries the sentence that
`--help`, `docs/settings.md` and the error message use.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from impasto.errors import ConfigError


def _at_home(path: Path) -> Path:
    """~ as a shell reads it, which a file and the environment have not been through."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


Folder = Annotated[Path, AfterValidator(_at_home)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Section):
    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            ipaddress.ip_network(entry, strict=False)
        return entries

    host: str = Field(default="127.0.0.1", description="Address to listen on. Anything but loopback requires API keys.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    public_url: str | None = Field(
        default=None,
        description="Base of every URL in answers, e.g. https://draw.example.org; default: what the client used.",
    )
    max_body_mb: int = Field(
        default=30, ge=1, le=1024, description="Largest JSON request body, in MiB; bigger ones are answered 413."
    )
    max_buffered_key_mb: int = Field(
        default=256,
        ge=0,
        description="MiB of bodies, frames and unread answers that the connections of one key (or address) may hold in "
        "memory; more is answered 429, or cut. 0: no limit.",
    )
    max_buffered_mb: int = Field(
        default=1024,
        ge=0,
        description="MiB of bodies and frames of all keys together; more is answered 429. 0: no limit.",
    )
    max_upload_mb: int = Field(default=100, ge=1, le=10240, description="Largest uploaded file, in MiB.")
    upload_quota_mb: int = Field(
        default=0,
        ge=0,
        description="MiB of uploads that one key may keep; 0: no limit. Pictures drawn do not count.",
    )
    upload_quota_files: int = Field(
        default=0,
        ge=0,
        description="Uploads that one key may keep, empty ones and waiting parts too; 0: one for every 4 KiB of "
        "server.upload_quota_mb, no limit where that is 0.",
    )
    min_free_mb: int = Field(
        default=32,
        ge=0,
        description="MiB that have to stay free on the disk of the data folder: below it requests and uploads are "
        "refused (503, 507) and /readyz says why; 0: the disk is not looked at.",
    )
    drain_seconds: float = Field(default=30.0, ge=0, description="How long a stop waits for running pictures.")
    realtime_idle_seconds: float = Field(
        default=60.0, gt=0, description="A realtime connection without inputs for so long is closed."
    )
    max_connections: int = Field(
        default=2048, ge=1, description="Open connections in all; further ones are answered 429."
    )
    max_connections_per_address: int = Field(
        default=256,
        ge=0,
        description="Open connections of one client address (of IPv6: one /64), loopback excepted; 0: no limit.",
    )
    max_connections_per_key: int = Field(
        default=512, ge=0, description="Open connections that one key used last; 0: no limit."
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=("127.0.0.0/8", "::1"),
        description="Networks of proxies whose X-Forwarded-For says which address a connection counts for.",
    )
    head_seconds: float = Field(
        default=10.0, gt=0, description="A request whose head takes longer is answered 408 and its connection closed."
    )
    body_seconds: float = Field(
        default=10.0, gt=0, description="Over so many seconds the pace of a request's body is measured."
    )
    body_kib_per_second: float = Field(
        default=8.0, ge=0, description="A request body that comes slower is answered 408; 0: any pace will do."
    )
    write_seconds: float = Field(
        default=60.0, gt=0, description="A client that reads nothing of its answer for so long is disconnected."
    )
    idle_seconds: float = Field(
        default=65.0, gt=0, description="How long a connection is kept open between two requests."
    )
    endpoints: tuple[str, ...] = Field(
        default=(), description="Endpoints of your own, as module:attribute (docs/custom-endpoints.md)."
    )
    cors: bool = Field(default=True, description="Answer browsers of any origin, as fal does.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe line logged."
    )


class AuthSettings(Section):
    mode: Literal["auto", "keys", "open"] = Field(
        default="auto",
        description="auto: any key passes on a loopback address which server.public_url calls by no other name, "
        "elsewhere a created one is needed; keys: always needed; open: never, and pages of all sites may call.",
    )
    origins: tuple[str, ...] = Field(
        default=(),
        description="Origins such as https://app.example whose pages may call a server that asks for no key.",
    )
    token_seconds: int = Field(
        default=3600, ge=1, le=86400, description="Longest life of a token from /tokens/; clients ask for 120 seconds."
    )


class OpenAISettings(Section):
    model: str = Field(
        default="fal-ai/flux-pro",
        description="Endpoint that draws at /openai/v1/images/generations for OpenAI's own model names (gpt-image-…, "
        "dall-e-…) and for calls that name none.",
    )
    edit_model: str = Field(
        default="fal-ai/flux/dev/image-to-image",
        description="The same for /openai/v1/images/edits; an endpoint that takes a picture.",
    )


Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ModelSettings(Section):
    name: str = Field(
        default="impasto-mini",
        description="Model to serve: a name that `impasto models list` shows, or the path of a checkpoint.",
    )
    folder: Folder | None = Field(
        default=None,
        description="Folder of the models that `impasto models` keeps; default: models in the data folder.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the model runs.")
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="CPU threads of the model; 0: its own choice (impasto-mini: 1, others: all cores).",
    )
    serve: dict[str, str] = Field(
        default={},
        description="Which loaded model serves an endpoint's model, e.g. flux-pro = impasto-mini; a model that is not "
        "named is served by the one that is loaded.",
    )
    residency: Literal["auto", "device", "text_on_host", "modulation_on_host", "layers_on_host"] = Field(
        default="auto",
        description="Where the weights live on a GPU: all on the device; T5 on the host, whose layers travel as a "
        "prompt is read; the modulation too, which travels once a request; or all layers, each copied right before it "
        "runs. auto: the first that fits into what is free, with as few layers away as it takes.",
    )
    weights_dtype: Literal["auto", "full", "fp8", "int8"] = Field(
        default="auto",
        description="How the transformer's weights are held: as wide as the computation, or in 8 bits, widened for "
        "each product. auto: full, but files in fp8 stay so when that saves moving weights (the same pictures), and "
        "others become int8 only when nothing else fits, which doctor, log and /v1/models say.",
    )
    room_for: int = Field(
        default=1024,
        ge=64,
        le=2048,
        description="Side in pixels of the square picture for which memory is kept free beside the weights; larger "
        "ones are drawn where it is enough.",
    )
    acceleration: Literal["asked", "none", "regular", "high"] = Field(
        default="asked",
        description="What may change the picture for speed: what a request's `acceleration` asks for, nothing, or "
        "regular or high also for requests that do not say.",
    )
    step_cache: tuple[Threshold, Threshold] = Field(
        default=(0.08, 0.12),
        description="How much a step may differ, for acceleration regular and high, to take over the work of the step "
        "before (docs/speed.md); 0: never.",
    )
    compile: Literal["off", "blocks"] = Field(
        default="off",
        description="blocks: compile the transformer's blocks when the model is loaded; a minute the first time, kept "
        "after that. Needs a C++ compiler on a CPU, Triton on a GPU.",
    )
    cuda_graphs: bool = Field(
        default=False, description="Record a step for every size on a GPU and replay it; the same picture, sooner."
    )
    fp8: bool = Field(
        default=False,
        description="Keep the transformer's linears in 8 bits, too, for requests of acceleration high; Ada and Hopper.",
    )
    speed_folder: Folder | None = Field(
        default=None,
        description="Folder of compiled code and of what was measured; default: speed in the data folder.",
    )
    overlap: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Read the next prompt and decode the last picture while the steps of another are made; auto: on "
        "a GPU with room for it. On a CPU it pays where as many cores as the model uses are idle.",
    )
    lora_mb: int = Field(
        default=0,
        ge=0,
        description="Largest memory of one LoRA in float32, in MiB, judged by its header before it is "
        "read; 0: a quarter of what is free beside the model, and no more than the model's own weights.",
    )
    loras_mb: int = Field(
        default=0,
        ge=0,
        description="The same of all LoRAs of one request together; 0: a quarter of what is free beside the model, and "
        "no more than twice the model's own weights.",
    )
    lora_rank: int = Field(
        default=2048, ge=1, description="Largest rank of a LoRA's layer; fused layers sum the ranks of their parts."
    )
    lora_tensors: int = Field(default=20_000, ge=1, description="Most tensors that a LoRA's file may have.")
    prompt_cache_mb: int = Field(
        default=256,
        ge=0,
        description="Prompts that the text encoders have read are kept, each for the key that sent it, up to so many "
        "MiB of the host's memory; 0: none.",
    )
    pipeline: Literal["flux", "fake"] = Field(
        default="flux", description="flux draws; fake makes deterministic test pictures at once, without torch."
    )
    fake_step_seconds: float = Field(
        default=0.0,
        ge=0,
        le=60,
        description="How long each step of the fake pipeline takes: for tests of progress, cancelling and timeouts.",
    )


class QueueSettings(Section):
    lease_seconds: float = Field(default=15.0, gt=0, description="A runner silent for so long has lost its work.")
    beat_seconds: float = Field(default=3.0, gt=0, description="How often a runner renews its leases.")
    max_attempts: int = Field(default=10, ge=1, le=100, description="Attempts a request gets before it fails with 503.")
    max_crashes: int = Field(default=3, ge=1, le=100, description="Attempts that may take their runner with them.")
    max_crashes_per_hour: int = Field(
        default=6,
        ge=0,
        description="Requests of one key that may take their runner with them within an hour; then the key's requests "
        "for the endpoints in question are answered 503 for a while. 0: no limit, as without keys.",
    )
    slots: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Requests a runner works on at a time; up to 4 more when each is of a key that it has none of.",
    )
    max_queued: int = Field(
        default=10_000,
        ge=0,
        description="Requests of one key that may wait; further ones are answered 429. 0: no limit, as without keys.",
    )
    max_running: int = Field(
        default=0,
        ge=0,
        description="Requests of one key that run at a time: in the queue more of them wait, a sync run is answered "
        "429. 0: no limit, as without keys.",
    )
    max_key_input_mb: int = Field(
        default=1024,
        ge=0,
        description="MiB that the stored inputs of one key may take. Beyond it large inputs of ended requests lose "
        "their long strings, the oldest first; when open requests fill it, new ones are answered 429. 0: no limit.",
    )
    max_input_mb: int = Field(default=8192, ge=0, description="The same for the inputs of all keys together.")
    retention_hours: float = Field(
        default=168.0,
        gt=0,
        description="How long results and their files are kept. An Idempotency-Key holds as long, at most 24 hours.",
    )


class SafetySettings(Section):
    enabled: bool = Field(
        default=True,
        description="Check prompts and pictures; has_nsfw_concepts tells the outcome. Sexual content with minors is "
        "refused even when false.",
    )
    on_flagged: Literal["black", "error"] = Field(
        default="black",
        description="What a flagged prompt or picture leads to: black pictures (200), or 422 content_policy_violation.",
    )
    prompt_check: str = Field(
        default="rules+prototypes",
        description="rules+prototypes (words and meaning), rules (words), none, an entry point of the group "
        "impasto.safety, or module:name.",
    )
    picture_check: str = Field(
        default="open_nsfw", description="open_nsfw, none, an entry point of the group impasto.safety, or module:name."
    )
    thresholds: tuple[float, float, float, float, float, float] = Field(
        default=(0.30, 0.50, 0.65, 0.80, 0.90, 0.97),
        description="Classifier score from which a picture is flagged, for safety_tolerance 1 to 6.",
    )
    prompt_thresholds: tuple[float, float, float, float, float, float] = Field(
        default=(0.30, 0.50, 0.65, 0.80, 0.90, 0.97),
        description="Rule score from which a prompt is flagged, for safety_tolerance 1 to 6.",
    )


class FetchSettings(Section):
    allow: tuple[str, ...] = Field(
        default=(),
        description="Networks (10.0.0.0/8) and host names that users' URLs may reach although they are not public, "
        "at any port.",
    )
    ports: tuple[int, ...] = Field(default=(80, 443, 8080, 8443), description="Ports that users' URLs may name.")
    seconds: float = Field(default=30.0, gt=0, description="How long reading a user's URL may take in all.")
    max_mb: int = Field(default=30, ge=1, le=1024, description="Largest file read from a user's URL, in MiB.")
    pace_seconds: float = Field(
        default=10.0, gt=0, description="Over so many seconds the pace of what is read from a user's URL is measured."
    )
    kib_per_second: float = Field(
        default=8.0,
        ge=0,
        description="A file that comes slower from a user's URL is answered 422; 0: any pace will do.",
    )
    at_a_time: int = Field(
        default=64, ge=1, le=1024, description="Requests whose images and LoRAs are read at a time, of all keys."
    )
    per_key: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Requests of one key whose images and LoRAs are read, or wait to be drawn once they are read.",
    )
    ahead_mb: int = Field(
        default=256,
        ge=1,
        description="MiB of images that are held for requests which wait to be drawn; one key holds at most a quarter.",
    )

    @field_validator("allow")
    @classmethod
    def _networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if "/" in entry:
                ipaddress.ip_network(entry, strict=False)
        return entries


class LoraSettings(Section):
    folder: Folder | None = Field(
        default=None, description="Folder whose .safetensors files requests may name as LoRAs; default: none."
    )
    hub: str = Field(
        default="https://huggingface.co",
        description="Where a LoRA named owner/name or owner/name/file.safetensors is fetched from; empty: nowhere.",
    )
    max_mb: int = Field(default=1024, ge=1, le=16384, description="Largest LoRA file, in MiB.")
    seconds: float = Field(default=300.0, gt=0, description="How long fetching a LoRA may take.")
    cache_mb: int = Field(
        default=8192,
        ge=1,
        description="Fetched LoRAs are kept up to so many MiB; the least recently used go first. No request may name "
        "more than that.",
    )
    fresh_hours: float = Field(default=24.0, ge=0, description="A LoRA fetched from a URL is fetched again after that.")


Delay = Annotated[float, Field(ge=0)]


class WebhookSettings(Section):
    loopback: Literal["auto", "yes", "no"] = Field(
        default="auto",
        description="Whether webhooks may go to this machine itself; auto: only where its own programs alone call: "
        "with auth.mode = auto on a loopback address and without a server.public_url of another name.",
    )
    seconds: float = Field(default=15.0, gt=0, description="How long a receiver has to answer a webhook's first try.")
    retry_seconds: float = Field(default=120.0, gt=0, description="How long it has to answer each further try.")
    retry_after: tuple[Delay, ...] = Field(
        default=(10, 30, 60, 120, 240, 480, 900, 1200, 1800, 2400),
        description="Seconds from a failed try to the next one, ±10 %; after the last of them the webhook is given up.",
    )
    max_mb: float = Field(
        default=5.0,
        gt=0,
        description="Largest webhook body, in MiB; a larger payload is left out, and payload_error says so.",
    )
    concurrency: int = Field(default=256, ge=1, description="Webhooks under way at a time.")
    per_host: int = Field(default=16, ge=1, description="Webhooks under way to one host at a time.")
    per_host_rate: float = Field(default=50.0, ge=1, description="Tries a second that one host gets at most.")
    key_overlap_hours: float = Field(
        default=48.0,
        ge=0,
        description="How long a new signing key is published before it signs, and an old one after; receivers keep "
        "keys for up to a day.",
    )


class PlatformSettings(Section):
    price: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="What a picture costs in usage reports; nobody is charged."
    )
    prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default={}, description="The same for single endpoints, e.g. fal-ai/flux-pro = 0.05."
    )
    currency: str = Field(default="USD", pattern="[A-Z]{3}", description="Currency of those prices.")

    def price_of(self, endpoint_id: str) -> float:
        return self.prices.get(endpoint_id, self.price)


class Settings(Section):
    """The whole tree. `data` is the one folder that impasto writes to."""

    data: Folder = Field(default=Path("impasto-data"), description="Folder of the database, the files and the keys.")
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    openai: OpenAISettings = OpenAISettings()
    model: ModelSettings = ModelSettings()
    queue: QueueSettings = QueueSettings()
    safety: SafetySettings = SafetySettings()
    fetch: FetchSettings = FetchSettings()
    lora: LoraSettings = LoraSettings()
    webhooks: WebhookSettings = WebhookSettings()
    platform: PlatformSettings = PlatformSettings()

    @property
    def models_folder(self) -> Path:
        return self.model.folder or self.data / "models"

    @property
    def speed_folder(self) -> Path:
        return self.model.speed_folder or self.data / "speed"

    @property
    def loading(self) -> ModelSettings:
        """The model's settings with nothing left open, for whoever loads it."""
        return self.model.model_copy(update={"folder": self.models_folder, "speed_folder": self.speed_folder})

    @property
    def local_url(self) -> str:
        """How a program on this machine reaches the server that these settings start."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server.host, self.server.host)
        return f"http://[{host}]:{self.server.port}" if ":" in host else f"http://{host}:{self.server.port}"

    @property
    def keys_required(self) -> bool:
        """A server with a public name is reached from elsewhere, through a proxy, whatever it listens on."""
        return self.auth.mode == "keys" or (self.auth.mode == "auto" and not self.at_home)

    @property
    def at_home(self) -> bool:
        """Whether the server is reached from this machine only, by address and by public name."""
        url = self.server.public_url
        return is_loopback(self.server.host) and (url is None or is_local(urlsplit(url).hostname or ""))

    @property
    def trusts_callers(self) -> bool:
        """Whether only programs of this machine call. Not so where keys are asked for (their owners may be anywhere)
        and not in the mode `open`, where pages of all sites may call. Decides what callers may reach on this machine.
        """
        return self.auth.mode == "auto" and self.at_home


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, no port) means this very machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(name: str) -> bool:
    """Whether a URL's host means this very machine, by address or by name."""
    return is_loopback(name) or name.endswith(".localhost")


PREFIX = "IMPASTO_"
LISTS = {
    "auth.origins",
    "fetch.allow",
    "server.endpoints",
    "server.trusted_proxies",
    "fetch.ports",
    "safety.thresholds",
    "safety.prompt_thresholds",
    "webhooks.retry_after",
    "model.step_cache",
}  # in the environment: separated by commas
TABLES = {"model.serve", "platform.prices"}  # in the environment: name=value, separated by commas
NOT_SETTINGS = {"IMPASTO_CONFIG", "IMPASTO_URL"}  # read by the command line
SERVICE_LINK = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|(\w+_)?PORT=(tcp|udp|sctp)://.*",
    re.DOTALL,
)  # what Kubernetes tells a pod of a Service whose name begins with impasto, without the prefix


def load(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings tree of `file` (default: ./impasto.toml when it is there), environment and flags; the last one wins.

    Environment: IMPASTO_DATA, IMPASTO_SERVER_PORT (section and field joined by "_"). `flags`: {"server.port": 8001};
    None values are left out. Raises `ConfigError` that names source, key and what is allowed.
    """
    environment = os.environ if environment is None else environment
    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    path = file or (Path("impasto.toml") if Path("impasto.toml").exists() else None)
    if path is not None:
        for key, value in _read_toml(path):
            _put(tree, key, value)
            origin[key] = str(path)
    for name, value in environment.items():
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and not _service_link(name, value):
            key = _environment_keys().get(name)
            if key is None:
                raise ConfigError(
                    f"environment: {name} is not a setting. Known: {', '.join(sorted(_environment_keys()))}"
                )
            _put(tree, key, _of_environment(key, value))
            origin[key] = f"environment {name}"
    for key, value in (flags or {}).items():
        if value is not None:
            _put(tree, key, value)
            origin[key] = f"flag for {key}"
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, origin) for item in error.errors())) from None


def describe() -> list[tuple[str, str, Any]]:
    """(key, sentence, default) of every setting, in order: the rows of the docs and of `impasto doctor`."""
    rows: list[tuple[str, str, Any]] = []
    for name, info in Settings.model_fields.items():
        if isinstance(info.default, Section):
            section = type(info.default)
            rows += [(f"{name}.{k}", f.description or "", f.default) for k, f in section.model_fields.items()]
        else:
            rows.append((name, info.description or "", info.default))
    return rows


def _of_environment(key: str, value: str) -> Any:
    if key in LISTS:
        return [part for part in value.split(",") if part]
    if key in TABLES:
        pairs = (part.partition("=") for part in value.split(",") if part)
        return {name.strip(): word.strip() for name, _, word in pairs}
    return value


def _service_link(name: str, value: str) -> bool:
    return SERVICE_LINK.fullmatch(f"{name.removeprefix(PREFIX)}={value}") is not None


def _environment_keys() -> dict[str, str]:
    return {PREFIX + key.replace(".", "_").upper(): key for key, _, _ in describe()}


def _read_toml(path: Path) -> list[tuple[str, Any]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Name another file or remove --config.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML ({error}).") from None
    known = [key for key, _, _ in describe()]
    pairs: list[tuple[str, Any]] = []
    for name, value in document.items():
        nested = [(f"{name}.{k}", v) for k, v in value.items()] if isinstance(value, dict) else [(name, value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        pairs += nested
    for key, _ in pairs:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}. Known: {', '.join(known)}")
    return pairs


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


def _explain(item: Any, origin: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    known = {k: (sentence, default) for k, sentence, default in describe()}
    while key and key not in known and "." in key:
        key = key.rpartition(".")[0]
    sentence, default = known.get(key, ("", None))
    return f"{origin.get(key, 'settings')}: {key} = {item['input']!r}: {item['msg']}. {sentence} Default: {default!r}."


def _page() -> str:
    rows = [
        f"| `{key}` | `{PREFIX}{key.replace('.', '_').upper()}` | `{default}` | {sentence} |"
        for key, sentence, default in describe()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            "`impasto.toml` (of the current folder, or `impasto --config FILE`) < environment < flags; the",
            "last one wins. An unknown key or a bad value stops the start. In the file a key such as `server.port` is",
            "`port` in the section `[server]`. This page is made by `python -m impasto.settings`.",
            "",
            "In the environment a list, shown as `(80, 443)`, is written `80,443`, and a table, shown as `{}`, as",
            "`flux-pro=impasto-mini,flux-dev=flux.1-dev`. `IMPASTO_CONFIG` names the file, as `--config` does;",
            "`IMPASTO_URL` the server that `impasto exec` and `impasto watch` speak to.",
            "",
            "| key | environment | default | |",
            "|---|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(_page() + "\n")
