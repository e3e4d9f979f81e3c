"""A section of a recipe whose keys are decided by its `name`, looked up in a registry when it is
validated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema


class ByName:
    """Pydantic annotation: `Annotated[Any, ByName(find, names)]` holds the config that `find(name)` gives.

    Args:
        find: name -> its config class, or None.
        names: the names there are, for errors and for the JSON schema.
        other: what else a name may be, for errors: `package.module:Class`.
    """

    def __init__(
        self,
        find: Callable[[Any], type[BaseModel] | None],
        names: Callable[[], Iterable[str]],
        other: str | None = None,
    ) -> None:
        self.find, self.names, self.other = find, names, other

    def configs(self) -> list[type[BaseModel]]:
        """The config class of every name."""
        found = (self.find(name) for name in self.names())
        return [config for config in found if config is not None]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        write = core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True)
        return core_schema.no_info_plain_validator_function(self._validate, serialization=write)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(config.__pydantic_core_schema__) for config in self.configs()]}

    def _validate(self, value: Any) -> BaseModel:
        name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
        config = self.find(name)
        if config is None:
            known = [*self.names(), *([self.other] if self.other else [])]
            raise PydanticCustomError(
                "union_tag_invalid", "no such name", {"expected_tags": ", ".join(f"'{n}'" for n in known)}
            )
        return config.model_validate(value)


def _dump(value: BaseModel, info: Any) -> dict[str, Any]:
    return value.model_dump(
        mode=info.mode,
        by_alias=info.by_alias,
        exclude_none=info.exclude_none,
        exclude_defaults=info.exclude_defaults,
    )
