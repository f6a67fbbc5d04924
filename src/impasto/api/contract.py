"""What every row of the route table takes and answers, as data: the source of `/openapi.json`.

`CONTRACT` has the keys of `app.routes`: path (convertors left out) and method. A row that is missing here fails
`tests/api/test_openapi.py`. `{endpoint}` stands for every endpoint, or for every app where only the app counts.

    "/tokens", "POST"  →  Operation("A short-lived token", body=…, answers={"200": …}, failures=KEYED + BODY)
"""

from dataclasses import dataclass, field
from typing import Any, Literal

JSON = "application/json"
ANY = "*/*"

COMMON = ("400", "405", "500", "503")  # a Host that is none, a method, a fault, a store that fails
KEYED = ("401", "403")
BODY = ("413", "422")
OWN = ("404",)
RUN = (*KEYED, *BODY, *OWN, "429", "499", "504")

FAILURES = {
    "400": "A header, a query value or the body makes no sense.",
    "401": "The key is missing, malformed or unknown.",
    "403": "The key, or the page that calls, may not do this.",
    "404": "There is no such thing, or it is not the caller's.",
    "405": "This path does not take this method.",
    "412": "The proxy does not serve this target.",
    "413": "The body is larger than the server takes, or than the key's quota has room for.",
    "415": "The body has to be JSON.",
    "416": "The range lies past the end of the file.",
    "422": "The input is wrong; `detail` names every field.",
    "429": "More requests are waiting than the caller allowed.",
    "499": "The request was cancelled.",
    "500": "The model, or the server, failed.",
    "503": "It cannot be done now; try again.",
    "504": "It did not start, or did not end, in time.",
    "507": "The server's disk has no room for the file.",
}


@dataclass(frozen=True, slots=True)
class Answer:
    description: str
    schema: dict[str, Any] | None = None  # None: no body
    media_type: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    name: str
    where: Literal["path", "query", "header"] = "query"
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    summary: str
    answers: dict[str, Answer] = field(default_factory=lambda: {"200": Answer("Done.", OBJECT)})
    failures: tuple[str, ...] = ()  # beyond COMMON
    parameters: tuple[Parameter, ...] = ()
    body: dict[str, Any] | None = None  # JSON schema; "input": the endpoint's own
    body_type: str = JSON
    raw_body: bool = False  # bytes of any type
    body_required: bool = True
    public: bool = False
    each: Literal["endpoint", "app", ""] = ""  # what `{endpoint}` in the path stands for
    listed: bool = False  # a path of its own for every endpoint, with its input and output; else one for all
    error: str = "Error"  # schema of the failures


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _page(name: str, item: dict[str, Any]) -> dict[str, Any]:
    listed = _object(has_more={"type": "boolean"}, next_cursor={"type": ["string", "null"]})
    return {**listed, "properties": {name: {"type": "array", "items": item}, **listed["properties"]}}


OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
INPUT: dict[str, Any] = {"x-input": True}
OUTPUT: dict[str, Any] = {"x-output": True}
BYTES = _text(format="binary")
STREAM = Answer("Server-sent events, JSON each.", _text(), "text/event-stream")
TEXT = Answer("Markdown.", _text(), "text/plain")

ERROR: dict[str, Any] = {
    "type": "object",
    "title": "Error",
    "description": "A sentence, or a list of what is wrong at which field; an unknown request has a status instead.",
    "x-fal-order-properties": ["detail", "error_type", "status"],
    "properties": {
        "detail": {"anyOf": [_text(), {"type": "array", "items": ref("ErrorItem")}]},
        "error_type": _text(),
        "status": _text(),
    },
}
ERROR_ITEM: dict[str, Any] = {
    "title": "ErrorItem",
    "description": "What is wrong with one field of the input.",
    "x-fal-order-properties": ["loc", "msg", "type", "url", "ctx", "input"],
    "type": "object",
    "properties": {
        "loc": {"type": "array", "items": _text(), "description": "Where: body, then the names down to the field."},
        "msg": _text(description="For people."),
        "type": _text(description="For programs, such as missing or greater_than_equal."),
        "url": _text(description="The page about this type."),
        "ctx": {"type": "object", "additionalProperties": True, "description": "The bound or the choices."},
        "input": {"description": "What was sent."},
    },
    "required": ["loc", "msg", "type"],
}
PLATFORM_ERROR: dict[str, Any] = {
    "title": "PlatformError",
    "x-fal-order-properties": ["error"],
    **_object(error=_object(type=_text(), message=_text(), docs_url=_text(), request_id=_text())),
}
OPENAI_ERROR: dict[str, Any] = {
    "title": "OpenAIError",
    "x-fal-order-properties": ["error"],
    **_object(
        error={
            "type": "object",
            "properties": {
                "message": _text(),
                "type": _text(),
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    ),
}
FILE_URL = _object(access_url=_text())
STATUS = Answer("The request's status.", ref("QueueStatus"))
DELIVERY = Answer(
    "Where its webhook stands.",
    _object(
        request_id=_text(),
        url=_text(),
        state=_text(enum=["WAITING", "DUE", "DELIVERED", "DEAD"]),
        next_try={"type": ["string", "null"]},
        attempts={"type": "array", "items": OBJECT},
    ),
)

REQUEST_ID = Parameter(name="request_id", where="path", required=True, description="The request id.")
LOGS = Parameter(name="logs", schema={"type": "number"}, description="1: with the log lines.")
PREVIEWS = Parameter(
    name="previews", schema={"type": "number"}, description="1: with progress and previews (ours, not fal's)."
)
TIMEOUT = Parameter(
    name="X-Fal-Request-Timeout",
    where="header",
    schema={"type": "number", "minimum": 0.1},
    description="Seconds within which the run has to start. Newer name, which wins: X-Fal-Request-Start-Timeout.",
)
SUBMIT = (
    TIMEOUT,
    Parameter(name="X-Fal-Queue-Priority", where="header", schema=_text(enum=["normal", "low"])),
    Parameter(name="X-Fal-No-Retry", where="header", schema=_text(enum=["0", "1"])),
    Parameter(name="X-Fal-Store-IO", where="header", schema=_text(enum=["0", "1"])),
    Parameter(name="X-Impasto-Previews", where="header", schema=_text(enum=["0", "1"])),
    Parameter(
        name="X-Fal-Object-Lifecycle-Preference",
        where="header",
        description="JSON: expiration_duration_seconds and initial_acl of the pictures.",
    ),
    Parameter(name="Idempotency-Key", where="header", schema=_text(minLength=1, maxLength=255)),
    Parameter(name="fal_webhook", schema=_text(format="uri"), description="Where the result is sent."),
    Parameter(name="fal_max_queue_length", schema={"type": "integer", "minimum": 0}),
)
TOKEN = Parameter(name="token", where="path", required=True, description="Path of the file below /files/.")
SIGNATURE = Parameter(name="upload", required=True, description="The signature of the upload URL.")
UPLOAD = Parameter(name="upload", where="path", required=True, description="The upload id.")
PART = Parameter(name="part", where="path", required=True, schema={"type": "integer", "minimum": 1, "maximum": 10_000})
PARTS = _object(parts={"type": "array", "items": _object(partNumber={"type": "integer"}, etag=_text())})
NAMED = {
    "type": "object",
    "properties": {"content_type": _text(), "file_name": _text()},
}
NAMED_FILE = Parameter(name="url", required=True, schema=_text(format="uri"), description="URL of the file.")
_DECISION = _text(enum=["allow", "forbid", "hide"])
ACL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "default": _DECISION,
        "rules": {"type": "array", "maxItems": 32, "items": _object(user=_text(), decision=_DECISION)},
    },
}
PART_DONE = Answer("The part is kept.", _object(partNumber={"type": "integer"}, etag=_text()))

ENDPOINT_IDS = Parameter(
    name="endpoint_id", schema={"type": "array", "items": _text(), "maxItems": 50}, description="Up to 50 endpoints."
)
SEARCH = Parameter(name="q", schema=_text(maxLength=200), description="Words of the id, title or description.")
LIMIT = Parameter(name="limit", schema={"type": "integer", "minimum": 1, "maximum": 100})
CURSOR = Parameter(name="cursor", description="`next_cursor` of the page before.")
EXPAND = Parameter(name="expand", schema={"type": "array", "items": _text()}, description="What to add.")
PAGING = (LIMIT, CURSOR, EXPAND)
TIMES = (
    Parameter(name="start", description="ISO 8601; default: 24 hours ago."),
    Parameter(name="end", description="ISO 8601; default: now."),
)
BUCKETS = (
    Parameter(name="timezone", description="IANA name; default: UTC."),
    Parameter(name="timeframe", schema=_text(enum=["minute", "hour", "day", "week", "month"])),
    Parameter(name="bound_to_timeframe", schema=_text(enum=["true", "false"])),
)


def _platform(summary: str, schema: dict[str, Any], *parameters: Parameter, **more: Any) -> Operation:
    failures = (*KEYED, *more.pop("failures", ()))
    status = more.pop("status", "200")
    return Operation(
        summary, {status: Answer("Done.", schema)}, failures, tuple(parameters), error="PlatformError", **more
    )


def _openai(summary: str, schema: dict[str, Any], **more: Any) -> Operation:
    failures = (*KEYED, *OWN, *more.pop("failures", ()))
    return Operation(summary, {"200": Answer("Done.", schema)}, failures, error="OpenAIError", **more)


_WISH: dict[str, Any] = {
    "prompt": _text(maxLength=10_000),
    "model": _text(),
    "n": {"type": "integer", "minimum": 1, "maximum": 4},
    "size": _text(pattern="^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"),
    "response_format": _text(enum=["url", "b64_json"]),
    "output_format": _text(enum=["png", "jpeg"]),
    "stream": {"type": "boolean"},
    "partial_images": {"type": "integer", "minimum": 0, "maximum": 3},
}
_DRAWN = _object(created={"type": "integer"}, data={"type": "array", "items": OBJECT})
_MODEL = _object(id=_text(), object=_text(), created={"type": "integer"}, owned_by=_text())
_GENERATE = _openai(
    "Pictures from words, in OpenAI's shape",
    _DRAWN,
    body={"type": "object", "properties": _WISH, "required": ["prompt"]},
    failures=("413", "429", "499", "504"),
)
_EDIT = _openai(
    "A picture drawn anew, in OpenAI's shape",
    _DRAWN,
    body={"type": "object", "properties": {**_WISH, "image": BYTES}, "required": ["prompt", "image"]},
    body_type="multipart/form-data",
    failures=("413", "415", "429", "499", "504"),
)

_REQUEST = "/{endpoint}/requests/{request_id}"
_STATUS = Operation(
    "Status of a request", {"200": STATUS, "202": STATUS}, (*KEYED, *OWN), (REQUEST_ID, LOGS), each="app"
)
_RESULT = Operation(
    "Result of a request, with the model's own status",
    {"200": Answer("The model's output.", OBJECT)},
    (*KEYED, *OWN, "422", "499", "504"),
    (REQUEST_ID,),
    each="app",
)
_PROXY = Operation(
    "fal's proxy protocol, answered by this server",
    {"200": Answer("What the target answers.", {}, ANY), "202": Answer("What the target answers.", {}, ANY)},
    (*RUN, "412", "415"),
    (Parameter(name="x-fal-target-url", where="header", required=True, schema=_text(format="uri")),),
)
_SIGNED_PART = Operation(
    "A part of a file, to its upload URL", {"200": PART_DONE}, ("403", "413", "507"), (TOKEN, PART, SIGNATURE),
    raw_body=True, public=True,
)  # fmt: skip
_ALIVE = Operation("Whether the process lives", {"200": Answer("It does.", OBJECT)}, public=True)
_TOKEN = Operation(
    "A short-lived token for browsers",
    {"200": Answer("The token.", _text())},
    (*KEYED, *BODY),
    body={
        "type": "object",
        "properties": {
            "allowed_apps": {"type": "array", "items": _text(minLength=1), "minItems": 1, "maxItems": 64},
            "token_expiration": {"type": "integer", "minimum": 1},
        },
        "required": ["allowed_apps"],
    },
)
_INITIATE = Operation(
    "Where to PUT a file",
    {"200": Answer("Two URLs.", _object(upload_url=_text(), file_url=_text()))},
    (*KEYED, *BODY),
    body=NAMED,
)

CONTRACT: dict[tuple[str, str], Operation] = {
    # ---------------------------------------------------------------- models
    ("/{endpoint}", "POST"): Operation(
        "Run", {"200": Answer("Successful Response", OUTPUT)}, RUN, (TIMEOUT,), INPUT, each="endpoint", listed=True
    ),
    ("/queue/{endpoint}", "POST"): Operation(
        "Submit to the queue", {"200": STATUS}, RUN, SUBMIT, INPUT, each="endpoint"
    ),
    ("/{endpoint}/stream", "POST"): Operation(
        "Run and tell while it happens", {"200": STREAM}, RUN, (TIMEOUT,), INPUT, each="endpoint"
    ),
    ("/{endpoint}/realtime", "WEBSOCKET"): Operation(
        "Many inputs over one WebSocket",
        {"101": Answer("The socket is open.")},
        (*KEYED, *OWN),
        (Parameter(name="fal_jwt_token"), Parameter(name="max_buffering", schema={"type": "integer"})),
        each="endpoint",
    ),
    (f"{_REQUEST}/status", "GET"): _STATUS,
    (f"{_REQUEST}/status/stream", "GET"): Operation(
        "Status, told at every change", {"200": STREAM}, (*KEYED, *OWN), (REQUEST_ID, LOGS, PREVIEWS), each="app"
    ),
    (_REQUEST, "GET"): _RESULT,
    (f"{_REQUEST}/response", "GET"): _RESULT,
    (f"{_REQUEST}/cancel", "PUT"): Operation(
        "Cancel a request", {"202": Answer("It will end soon.", OBJECT)}, (*KEYED, *OWN), (REQUEST_ID,), each="app"
    ),
    (f"{_REQUEST}/webhook", "GET"): Operation(
        "What became of a request's webhook", {"200": DELIVERY}, (*KEYED, *OWN), (REQUEST_ID,), each="app"
    ),
    (f"{_REQUEST}/webhook/redeliver", "POST"): Operation(
        "Send a request's webhook again", {"202": DELIVERY}, (*KEYED, *OWN), (REQUEST_ID,), each="app"
    ),
    # ---------------------------------------------------------------- tokens and files
    ("/tokens", "POST"): _TOKEN,
    ("/tokens/realtime", "POST"): _TOKEN,
    ("/storage/auth/token", "POST"): Operation("A token for uploads", failures=KEYED),
    ("/storage/upload/initiate", "POST"): _INITIATE,
    ("/storage/upload/initiate-multipart", "POST"): _INITIATE,
    ("/storage/upload/complete-multipart", "POST"): Operation(
        "Join the parts, away from the file's host",
        {"200": Answer("Its URL.", FILE_URL)},
        (*KEYED, *BODY, "507"),
        body=_object(upload_url=_text(), **PARTS["properties"]),
    ),
    ("/files/upload", "POST"): Operation(
        "A whole file", {"200": Answer("Its URL.", FILE_URL)}, (*KEYED, "413", "507"), raw_body=True
    ),
    ("/files/upload/multipart", "POST"): Operation(
        "Begin a file of several parts",
        {"200": Answer("Its URL and the upload id.", _object(access_url=_text(), uploadId=_text()))},
        KEYED,
    ),
    ("/files/{token}/multipart/{upload}/{part}", "PUT"): Operation(
        "A part", {"200": PART_DONE}, (*KEYED, "404", "413", "507"), (TOKEN, UPLOAD, PART), raw_body=True
    ),
    ("/files/{token}/multipart/{upload}/{part}", "POST"): Operation(
        "Where to PUT a part", {"200": Answer("Just there.", _object(upload_url=_text()))}, ("403", "404"),
        (TOKEN, UPLOAD, PART), public=True,
    ),
    ("/files/{token}/multipart/{upload}/complete", "POST"): Operation(
        "Join the parts", {"200": Answer("Its URL.", FILE_URL)}, (*KEYED, *BODY, "507"), (TOKEN, UPLOAD), PARTS
    ),
    ("/files/{token}/complete", "POST"): Operation(
        "Join the parts, with the upload URL's signature",
        {"200": Answer("Its URL.", FILE_URL)},
        ("403", *BODY, "507"),
        (TOKEN, SIGNATURE),
        PARTS,
        public=True,
    ),
    ("/files/{token}/{part}", "PUT"): _SIGNED_PART,
    ("/files/{token}", "PUT"): Operation(
        "A whole file, to its upload URL",
        {"200": Answer("It is there.")},
        ("403", "413", "507"),
        (TOKEN, SIGNATURE),
        raw_body=True,
        public=True,
    ),
    ("/files/{token}", "GET"): Operation(
        "A file",
        {
            "200": Answer("Its bytes.", BYTES, ANY),
            "206": Answer("A range of its bytes.", BYTES, ANY),
            "304": Answer("Not changed."),
        },
        ("403", "404", "416"),
        (TOKEN,),
        public=True,
    ),
    ("/files/{token}", "DELETE"): Operation(
        "Delete a file", {"204": Answer("It is served no more.")}, (*KEYED, *OWN), (TOKEN,)
    ),
    ("/requests/delete_io/{request_id}", "PUT"): Operation(
        "Erase input, output and pictures of a request, in the older form",
        {"200": Answer("Done.", _object(CDN_DELETE_RESULTS={"type": "array", "items": OBJECT}))},
        (*KEYED, *OWN),
        (REQUEST_ID,),
    ),
    # ---------------------------------------------------------------- the platform API
    ("/v1/storage/files/sign", "POST"): _platform(
        "A link that opens a file for whoever has it",
        _object(signed_url=_text()),
        NAMED_FILE,
        body=_object(expiration_seconds={"type": "integer", "minimum": 1, "maximum": 604_800}),
        failures=(*OWN, *BODY),
    ),
    ("/v1/storage/files/acl", "GET"): _platform("Who may read a file", ACL, NAMED_FILE, failures=OWN),
    ("/v1/storage/files/acl", "PUT"): _platform(
        "Say who may read a file", ACL, NAMED_FILE, body=ACL, failures=(*OWN, *BODY)
    ),
    ("/v1/models", "GET"): _platform(
        "The endpoints", _page("models", OBJECT), ENDPOINT_IDS, SEARCH, Parameter(name="category"),
        Parameter(name="status", schema=_text(enum=["active", "deprecated"])), *PAGING, public=True,
    ),
    ("/v1/models/pricing", "GET"): _platform(
        "Prices", _page("prices", OBJECT), ENDPOINT_IDS, LIMIT, CURSOR, failures=OWN
    ),
    ("/v1/models/pricing/estimate", "POST"): _platform(
        "What calls or pictures would cost",
        _object(estimate_type=_text(), total_cost={"type": "number"}, currency=_text()),
        body=_object(
            estimate_type=_text(enum=["historical_api_price", "unit_price"]),
            endpoints={"type": "object", "minProperties": 1, "maxProperties": 50, "additionalProperties": OBJECT},
        ),
        failures=(*OWN, *BODY),
    ),
    ("/v1/models/usage", "GET"): _platform(
        "Pictures and their cost", _page("time_series", OBJECT), ENDPOINT_IDS, *TIMES, *BUCKETS, *PAGING
    ),
    ("/v1/models/analytics", "GET"): _platform(
        "Requests, errors, durations", _page("time_series", OBJECT), ENDPOINT_IDS, *TIMES, *BUCKETS, *PAGING
    ),
    ("/v1/models/requests/by-endpoint", "GET"): _platform(
        "Requests to an endpoint, newest first",
        _page("items", OBJECT),
        Parameter(name="endpoint_id", required=True),
        *TIMES,
        Parameter(name="request_id"),
        Parameter(name="status", schema=_text(enum=["success", "user_error", "error", "in_queue", "in_progress"])),
        *PAGING,
    ),
    ("/v1/models/requests/{request_id}/payloads", "DELETE"): _platform(
        "Erase input, output and pictures of a request",
        _object(cdn_delete_results={"type": "array", "items": OBJECT}),
        REQUEST_ID,
        failures=OWN,
    ),
    ("/v1/requests", "GET"): _platform(
        "All requests, newest first (ours, not fal's)",
        _page("items", OBJECT),
        ENDPOINT_IDS,
        Parameter(name="request_id"),
        Parameter(name="q", description="Words of the prompt, among the newest 2,000 requests."),
        Parameter(name="status", schema=_text(enum=["success", "user_error", "error", "in_queue", "in_progress"])),
        *PAGING,
    ),
    ("/v1/requests/{request_id}/cancel", "PUT"): _platform(
        "Cancel a request (ours, not fal's)", _object(status=_text()), REQUEST_ID, status="202", failures=OWN
    ),
    ("/v1/system", "GET"): _platform(
        "What the server is doing now (ours, not fal's)",
        _object(
            version=_text(),
            started_at=_text(),
            ready={"type": "boolean"},
            reason=_text(),
            queue={"type": "array", "items": OBJECT},
            running={"type": "array", "items": OBJECT},
            runners={"type": "array", "items": OBJECT},
        ),
    ),
    ("/v1/system/activity", "GET"): _platform(
        "What was drawn, for whom and how fast (ours, not fal's)",
        _object(
            time_series={"type": "array", "items": OBJECT},
            summary=OBJECT,
            endpoints={"type": "array", "items": OBJECT},
            keys={"type": "array", "items": OBJECT},
        ),
        Parameter(name="endpoint_id", description="One endpoint only."),
        *TIMES,
        *BUCKETS,
    ),
    ("/v1/system/models", "GET"): _platform(
        "The known models, their licences, which are here and loaded (ours, not fal's)",
        _page("models", OBJECT), LIMIT, CURSOR,
    ),
    ("/v1/webhooks", "GET"): _platform(
        "Webhook deliveries, newest first (ours, not fal's)",
        _page("deliveries", OBJECT),
        Parameter(name="state", schema=_text(enum=["DUE", "DELIVERED", "DEAD"])),
        LIMIT,
        CURSOR,
    ),
    ("/v1/webhooks/{request_id}/redeliver", "POST"): Operation(
        "Send a request's webhook again (ours, not fal's)",
        {"202": DELIVERY},
        (*KEYED, *OWN),
        (REQUEST_ID,),
        error="PlatformError",
    ),
    ("/v1/keys", "GET"): _platform("The API keys", _page("keys", OBJECT), *PAGING),
    ("/v1/keys", "POST"): _platform(
        "A new API key",
        _object(key_id=_text(), key_secret=_text(), key=_text()),
        body={
            "type": "object",
            "properties": {"alias": _text(minLength=1, maxLength=255), "scope": _text(enum=["API", "ADMIN"])},
            "required": ["alias"],
        },
        status="201",
        failures=BODY,
    ),
    ("/v1/keys/{key_id}", "DELETE"): Operation(
        "Delete an API key",
        {"204": Answer("It has stopped working.")},
        (*KEYED, *OWN),
        (Parameter(name="key_id", where="path", required=True),),
        error="PlatformError",
    ),
    ("/v1/account/billing", "GET"): _platform("The account", OBJECT, EXPAND),
    ("/v1/meta", "GET"): _platform("Facts about the platform", OBJECT, public=True),
    # ---------------------------------------------------------------- OpenAI's clients
    **{(f"{base}/images/generations", "POST"): _GENERATE for base in ("/openai/v1", "/v1")},
    **{(f"{base}/images/edits", "POST"): _EDIT for base in ("/openai/v1", "/v1")},
    ("/openai/v1/models", "GET"): _openai(
        "The endpoints, in OpenAI's shape", _object(data={"type": "array", "items": _MODEL})
    ),
    ("/openai/v1/models/{model}", "GET"): _openai(
        "One endpoint, in OpenAI's shape", _MODEL, parameters=(Parameter(name="model", where="path", required=True),)
    ),
    # ---------------------------------------------------------------- people and machines around it
    ("/api/fal/proxy", "GET"): _PROXY,
    ("/api/fal/proxy", "POST"): _PROXY,
    ("/api/fal/proxy", "PUT"): _PROXY,
    ("/", "GET"): Operation("What this is", public=True),
    ("/health", "GET"): _ALIVE,
    ("/healthz", "GET"): _ALIVE,
    ("/readyz", "GET"): Operation(
        "Whether it can draw", {"200": Answer("It can.", OBJECT), "503": Answer("It cannot; why.", OBJECT)}, public=True
    ),
    ("/openapi.json", "GET"): Operation("This document", public=True),
    ("/api/models", "GET"): Operation(
        "The endpoints, as fal's pages list them",
        {
            "200": Answer(
                "A page of them.",
                _object(
                    items={"type": "array", "items": OBJECT},
                    **{key: {"type": "integer"} for key in ("total", "page", "size", "pages")},
                ),
            )
        },
        ("401",),
        (
            Parameter(name="keywords", schema=_text(maxLength=200)),
            Parameter(name="categories", schema={"type": "array", "items": _text()}),
            Parameter(name="page", schema={"type": "integer", "minimum": 0}),
            Parameter(name="limit", schema={"type": "integer", "minimum": 1, "maximum": 1000}),
        ),
        public=True,
    ),
    ("/api/openapi/queue/openapi.json", "GET"): Operation(
        "The document of one endpoint's queue",
        failures=OWN,
        parameters=(
            Parameter(name="endpoint_id", required=True),
            Parameter(
                name="expand",
                schema=_text(enum=["app"]),
                description="app: with the inputs of the app's endpoints that start from a picture (ours, not fal's).",
            ),
        ),
        public=True,
    ),
    ("/llms.txt", "GET"): Operation("What is served, in words", {"200": TEXT}, public=True),
    ("/models/{endpoint}/llms.txt", "GET"): Operation(
        "An endpoint in words", {"200": TEXT}, OWN, public=True, each="endpoint"
    ),
    ("/.well-known/jwks.json", "GET"): Operation(
        "Keys that sign webhooks",
        {"200": Answer("A key set.", _object(keys={"type": "array", "items": OBJECT}))},
        public=True,
    ),
}  # fmt: skip

INTERNAL = {
    (f"{base}/{{rest}}", method)
    for base in ("/v1", "/openai/v1")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
}
"""Rows that only say that there is nothing."""
