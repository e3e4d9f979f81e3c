"""Objectives: an episode in, gradients by parameter name out.

`OBJECTIVES` is the only list of them; whatever else needs one (recipes, tables, messages) asks it. A third
party adds a subclass of `dilkit.objectives.base.Objective` by `dilkit.register`, by an entry point of the
group `dilkit.objectives`, or in a plug-in file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializeAsAny, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dilkit.errors import UsageError, nearest
from dilkit.objectives.base import Objective, ObjectiveConfig
from dilkit.registry import Registry

if TYPE_CHECKING:
    from dilkit.objectives.base import Loss, Reduce

__all__ = ["OBJECTIVES", "AnyObjective", "Objective", "ObjectiveConfig", "configs", "make_objective"]


def is_objective(thing: Any) -> bool:
    """Whether a thing is the class of an objective."""
    return isinstance(thing, type) and issubclass(thing, Objective)


def _check(name: str, cls: type[Objective]) -> None:
    """What can be seen of an objective without a net (`dilkit.testing.check_objective` runs it)."""
    if not is_objective(cls):
        raise UsageError(
            f"the objective {name!r} is no subclass of dilkit.objectives.base.Objective", found=repr(cls)
        )
    if not issubclass(cls.Config, ObjectiveConfig):
        raise UsageError(
            f"the settings of the objective {name!r} are no ObjectiveConfig",
            where=f"{cls.__qualname__}.Config",
            remedy="class Config(ObjectiveConfig): its fields, with defaults",
        )
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise UsageError(f"the objective {name!r} lacks {', '.join(missing)}", where=cls.__qualname__)


OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    own={
        "erm": "dilkit.objectives.erm:Erm",
        "erm_pure": "dilkit.objectives.erm:ErmPure",
        "dil_sf": "dilkit.objectives.dil:DilSf",
        "dil_pf": "dilkit.objectives.dil:DilPf",
        "dil_ss": "dilkit.objectives.dil:DilSs",
        "dil_ps": "dilkit.objectives.dil:DilPs",
        "lookahead": "dilkit.objectives.controls:Lookahead",
        "fish": "dilkit.objectives.generalisation:Fish",
        "mldg": "dilkit.objectives.generalisation:Mldg",
        "fishr": "dilkit.objectives.generalisation:Fishr",
        "groupdro": "dilkit.objectives.generalisation:GroupDro",
        "vrex": "dilkit.objectives.generalisation:VRex",
        "irm": "dilkit.objectives.generalisation:Irm",
        "eqrm": "dilkit.objectives.generalisation:Eqrm",
        "coral": "dilkit.objectives.generalisation:Coral",
        "mixup": "dilkit.objectives.generalisation:Mixup",
        "pcgrad": "dilkit.objectives.generalisation:PcGrad",
        "andmask": "dilkit.objectives.generalisation:AndMask",
        "iga": "dilkit.objectives.generalisation:InvariantGradients",
        "tilted": "dilkit.objectives.generalisation:Tilted",
    },
    check=_check,
    is_one=is_objective,
)
"""Name -> class."""


def configs() -> dict[str, type[ObjectiveConfig]]:
    """Name -> settings, of every objective, those of plug-ins included."""
    return {name: OBJECTIVES.get(name).Config for name in OBJECTIVES}


def _chosen(value: Any) -> ObjectiveConfig:
    """Settings of the objective that `value` names: a name, a map with a `name`, or settings already."""
    if isinstance(value, ObjectiveConfig):
        value = value.model_dump()
    if isinstance(value, str):
        value = {"name": value}
    name = value.get("name") if isinstance(value, Mapping) else None
    cls = OBJECTIVES.find(name) if isinstance(name, str) else None
    if cls is None:
        raise PydanticCustomError(
            "union_tag_invalid",
            "unknown objective {tag}",
            {"tag": name, "expected_tags": ", ".join(f"'{each}'" for each in OBJECTIVES)},
        )
    return cls.Config.model_validate(value)


class _Choice:
    """How pydantic validates and documents the settings of whichever objective is named."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _chosen,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda config, info: config.model_dump(
                    mode=info.mode, by_alias=info.by_alias, exclude_none=info.exclude_none
                ),
                info_arg=True,
            ),
        )

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        each = []
        for name, config in configs().items():
            schema = config.model_json_schema(ref_template="#/$defs/{model}")
            schema["properties"]["name"] = {"const": name}
            each.append(_inlined(schema))
        return {"oneOf": each}


def _inlined(schema: Any, defs: Mapping[str, Any] | None = None) -> Any:
    """A JSON schema without references: the settings of objectives are small and not recursive."""
    if isinstance(schema, dict):
        defs = {**(defs or {}), **schema.get("$defs", {})}
        if "$ref" in schema:
            return _inlined(defs[schema["$ref"].rpartition("/")[2]], defs)
        return {
            key: _inlined(part, defs) for key, part in schema.items() if key not in ("$defs", "discriminator")
        }
    return [_inlined(part, defs) for part in schema] if isinstance(schema, list) else schema


AnyObjective = Annotated[SerializeAsAny[ObjectiveConfig], _Choice()]
"""The settings of any objective, told apart by `name`; what the `objective` section of a recipe is."""


def make_objective(
    name: str, *, loss: Loss, seed: int = 0, reduce: Reduce | None = None, **settings: Any
) -> Objective:
    """An objective by name.

    Args:
        name: one of `OBJECTIVES`.
        loss: loss(module, (distorted, clean)) -> scalar; it opens its own autocast, if any.
        seed: of the orders drawn at each step (with the step's number; the same on all processes).
        reduce: averages a list of tensors over the processes, in place. The gradients returned are then
            already averaged, and so are those of every virtual step.
        settings: the fields of the objective's `Config`.

    Raises:
        UsageError: an unknown name or field, or a value out of range.
    """
    cls = OBJECTIVES.get(name)
    try:
        config = cls.Config.model_validate({"name": name, **settings})
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            first["msg"],
            where=f"objective {name}, {path}",
            found=first["input"],
            nearest=nearest(path, cls.Config.model_fields) if first["type"] == "extra_forbidden" else None,
        ) from None
    made = cls(config, loss, seed=seed, reduce=reduce)
    if config.sam is None:
        return made
    from dilkit.objectives.generalisation import SharpnessAware

    return SharpnessAware(made, config.sam)
