"""Every bound of every field of every endpoint, read from the published schema: at it, and one past it (S17)."""

from collections.abc import Iterator
from typing import Any

import pytest

from impasto.endpoints.base import Endpoint
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.errors import DOCS_URL, ModelError

ENDPOINTS = Endpoints()
UNPUBLISHED = {"fal-ai/flux-pro/v1.1-ultra": ["3:2", "2:3"], "fal-ai/flux-pro/v1.1-ultra/redux": ["3:2", "2:3"]}
Case = tuple[str, list[str], Any, str, dict[str, Any]]  # endpoint, field, value, type ("" = good), ctx


def fields(endpoint: Endpoint) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """(path, schema without references) of each field, those of an image size included."""
    found = schemas(endpoint)
    for name, schema in found[endpoint.Input.__name__]["properties"].items():
        choices = schema.get("anyOf", [schema])
        for choice in choices:
            if "$ref" in choice:
                inner = found[choice["$ref"].rpartition("/")[2]]["properties"]
                yield from (([name, part], inner[part]) for part in inner)
            else:
                yield [name], choice


def cases(id_: str) -> Iterator[Case]:
    for path, schema in fields(ENDPOINTS[id_]):
        step = 1 if schema.get("type") == "integer" else 0.001
        if "minimum" in schema:
            yield id_, path, schema["minimum"], "", {}
            yield id_, path, schema["minimum"] - step, "greater_than_equal", {"ge": schema["minimum"]}
        if "maximum" in schema:
            good = schema["maximum"] if len(path) == 1 else 2560  # sides end earlier than the schema says
            yield id_, path, good, "", {}
            yield id_, path, schema["maximum"] + step, "less_than_equal", {"le": schema["maximum"]}
        if "exclusiveMinimum" in schema:
            yield id_, path, schema["exclusiveMinimum"], "greater_than", {"gt": schema["exclusiveMinimum"]}
        if "maxLength" in schema:
            yield id_, path, "a" * schema["maxLength"], "", {}
            yield id_, path, "a" * (schema["maxLength"] + 1), "sequence_too_long", {"max_length": schema["maxLength"]}
        if "minLength" in schema:
            yield id_, path, "a" * schema["minLength"], "", {}
            yield id_, path, "a" * (schema["minLength"] - 1), "sequence_too_short", {"min_length": schema["minLength"]}
        if "enum" in schema:
            yield from ((id_, path, value, "", {}) for value in schema["enum"])
            for value in ("", schema["enum"][0] + "x", schema["enum"][0].upper() + "?"):
                more = UNPUBLISHED.get(id_, []) if path == ["aspect_ratio"] else []
                yield id_, path, value, "one_of", {"expected": schema["enum"] + more}
        if path[-1] in ("width", "height"):
            yield id_, path, 64, "", {}
            yield id_, path, 63, "image_too_small", {"min_height": 64, "min_width": 64}
            yield id_, path, 2561, "image_too_large", {"max_height": 2560, "max_width": 2560}


ALL = [case for id_ in ENDPOINTS for case in cases(id_)]


def test_there_is_something_to_try_at_every_endpoint() -> None:
    assert {case[0] for case in ALL} == set(ENDPOINTS)
    assert len(ALL) > 20 * len(ENDPOINTS)


@pytest.mark.parametrize("id_", ENDPOINTS)
def test_at_the_bound_is_good_and_past_it_names_field_type_and_bound(id_: str) -> None:
    endpoint = ENDPOINTS[id_]
    for _, path, value, type_, context in cases(id_):
        payload: dict[str, Any] = dict(endpoint.example)
        payload[path[0]] = value if len(path) == 1 else {"width": 512, "height": 512, path[1]: value}
        if not type_:
            validate(endpoint, payload)
            continue
        with pytest.raises(ModelError) as caught:
            validate(endpoint, payload)
        (item,) = caught.value.items
        where = path if type_.startswith(("greater", "less")) else path[:1]
        assert item["loc"] == ["body", *where], (path, value)
        assert (item["type"], item["ctx"]) == (type_, context), (path, value)
        assert item["url"] == DOCS_URL + type_
        assert item["msg"]
        if len(str(value)) < 4000:  # a longer one is not sent back
            assert item["input"] == (value if where == path else payload[path[0]])


PLAIN = {  # pydantic's own types, linked to pydantic's page
    "missing": ("prompt", None),
    "string_type": ("prompt", 5),
    "int_type": ("num_images", [1]),
    "int_parsing": ("num_images", "many"),
    "int_from_float": ("num_images", 1.5),
    "bool_parsing": ("sync_mode", "maybe"),
    "bool_type": ("sync_mode", {}),
    "float_parsing": ("guidance_scale", "much"),
    "float_type": ("guidance_scale", []),
}


@pytest.mark.parametrize("type_", PLAIN)
@pytest.mark.parametrize("id_", ENDPOINTS)
def test_other_values_get_pydantics_own_word(id_: str, type_: str) -> None:
    endpoint = ENDPOINTS[id_]
    field, value = PLAIN[type_]
    if type_ == "missing":
        required = [name for name, info in endpoint.Input.model_fields.items() if info.is_required()]
        payload: dict[str, Any] = {}
        found = [["body", name] for name in required]
    else:
        if field not in endpoint.Input.model_fields:
            field = "num_images" if type_.startswith("int") else "sync_mode"
        if type_.startswith("float") and "guidance_scale" not in endpoint.Input.model_fields:
            return  # it has no such field
        payload, found = {**endpoint.example, field: value}, [["body", field]]
    if type_ == "string_type" and "prompt" not in endpoint.Input.model_fields:
        payload, found = {**endpoint.example, "image_url": 5}, [["body", "image_url"]]
    with pytest.raises(ModelError) as caught:
        validate(endpoint, payload)
    assert [item["loc"] for item in caught.value.items] == found
    assert {item["type"] for item in caught.value.items} == {type_}
    assert all(item["url"].startswith("https://errors.pydantic.dev/") for item in caught.value.items)
