"""Input and Output classes → JSON schema as fal publishes it: property order, titles, examples, no null branches."""

from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from impasto.endpoints.base import Endpoint

REF = "#/components/schemas/{model}"


class _FalSchema(GenerateJsonSchema):
    """The published shape is the documented one; what is accepted beyond it (null, numbers for words) is not shown."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        return {"anyOf": [self.generate_inner(choice) for choice in schema["choices"].values()]}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        shown = super().default_schema(schema)
        if shown.get("default", ...) is None:
            shown.pop("default")
        return shown


def schemas(endpoint: Endpoint) -> dict[str, Any]:
    """{name: JSON schema} of Input, Output and what they refer to, each object with `x-fal-order-properties`."""
    input_ = _definitions(endpoint.Input)
    input_[endpoint.Input.__name__]["examples"] = [endpoint.example]
    return input_ | _definitions(endpoint.Output)


def _definitions(model: type[BaseModel]) -> dict[str, Any]:
    document = model.model_json_schema(ref_template=REF, schema_generator=_FalSchema)
    definitions = cast("dict[str, Any]", document.pop("$defs", {}))
    return {name: _ordered(schema) for name, schema in {model.__name__: document, **definitions}.items()}


def _ordered(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    if schema.get("type") == "object":
        schema["x-fal-order-properties"] = list(properties)
    return schema
