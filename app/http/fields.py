"""Fields that request bodies have in common, as pydantic types."""

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from app.http.image_input import IMAGE, ImageData

TEXT = {"type": "string", "minLength": 1}
ITEM: dict[str, Any] = {
    "description": "a text, or a text or an image in an object",
    "anyOf": [
        TEXT,
        *(
            {"type": "object", "properties": {name: kind}, "required": [name], "additionalProperties": False}
            for name, kind in (("text", TEXT), ("image", IMAGE))
        ),
    ],
}


ModelName = Annotated[str, Field(min_length=1, max_length=200, description="a name of GET /v1/models")]
Label = Annotated[str, Field(min_length=1)]
Template = Annotated[str, Field(pattern=r"\{label\}", description="a text that holds {label}")]
TopK = Annotated[int, Field(ge=1, description="the number of best results; all by default")]


class RequestModel(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Item(RequestModel):
    """A text or an image; a bare string is a text."""

    text: Annotated[str, Field(min_length=1)] | None = None
    image: ImageData | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _text_or_image(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("give either a text or an image")
        return self


def listed(value: Any) -> Any:
    """A list of one value, where a request gives the bare value."""
    return [value] if isinstance(value, str | dict) else value


AnyItem = Annotated[Item, WithJsonSchema(ITEM)]
Items = Annotated[list[AnyItem], Field(min_length=1)]
ItemOrItems = Annotated[
    list[Item],
    Field(min_length=1),
    BeforeValidator(listed),
    WithJsonSchema({"anyOf": [*ITEM["anyOf"], {"type": "array", "items": ITEM, "minItems": 1}]}),
]
