"""JSON Schema 2020-12, as pydantic writes it and OpenAPI 3.1 takes it → a schema object of OpenAPI 3.0.

fal labels the documents of its endpoints 3.0.4; code generators hold them to that.

    {"const": 1}                         → {"enum": [1]}
    {"examples": [a, b]}                 → {"example": a}
    {"exclusiveMinimum": 0}              → {"minimum": 0, "exclusiveMinimum": true}
    {"type": ["string", "null"]}         → {"type": "string", "nullable": true}
    {"anyOf": [S, {"type": "null"}]}     → S with "nullable": true
    {"$ref": R, "description": d}        → {"allOf": [{"$ref": R}], "description": d}
"""

from typing import Any, cast

_NULL = {"type": "null"}
_BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_CHOICES = ("anyOf", "oneOf", "allOf")
_DATA = frozenset({"default", "enum", "example"})  # values of the caller's data, not schemas
_UNKNOWN = frozenset({"$defs", "$schema", "$comment", "contentEncoding", "contentMediaType"})


def to_30(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` in the words of OpenAPI 3.0. Raises ValueError for what these cannot say (several types, tuples)."""
    made = {key: value for key, value in schema.items() if key not in _UNKNOWN}
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "examples" in made:
        made["example"] = made.pop("examples")[0]
    for exclusive, bound in _BOUNDS.items():
        if exclusive in made:
            made[bound], made[exclusive] = made[exclusive], True
    _type_of(made)
    _without_null(made)
    for key, value in made.items():
        made[key] = value if key in _DATA else _inner(key, value)
    if "$ref" in made and len(made) > 1:
        made["allOf"] = [{"$ref": made.pop("$ref")}]
    return made


def _type_of(made: dict[str, Any]) -> None:
    if isinstance(made.get("type"), list):
        types = cast("list[str]", made["type"])
        named = [name for name in types if name != "null"]
        if len(named) != 1:
            raise ValueError(f"OpenAPI 3.0 has no schema of the types {types}: use anyOf.")
        made["type"] = named[0]
        if len(named) < len(types):
            made["nullable"] = True
    if "prefixItems" in made:
        raise ValueError("OpenAPI 3.0 has no tuples: use a list with minItems and maxItems.")


def _without_null(made: dict[str, Any]) -> None:
    for key in ("anyOf", "oneOf"):
        if _NULL not in made.get(key, ()):
            continue
        left = [choice for choice in made.pop(key) if choice != _NULL]
        made["nullable"] = True
        if len(left) == 1 and "$ref" not in left[0]:
            made |= to_30(left[0]) | made
        else:
            made["allOf" if len(left) == 1 else key] = left


def _inner(key: str, value: Any) -> Any:
    """The value of a keyword: schemas in it converted, all else left as it is."""
    if key == "properties":
        return {name: to_30(each) for name, each in cast("dict[str, Any]", value).items()}
    if key in _CHOICES:
        return [to_30(each) for each in cast("list[dict[str, Any]]", value)]
    if key in {"items", "additionalProperties", "not"} and isinstance(value, dict):
        return to_30(cast("dict[str, Any]", value))
    return value
