"""TOML to typed models, strictly: what is misspelt or of the wrong type is named with its file and line."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, Discriminator, Tag, ValidationError
from pydantic.fields import FieldInfo

from editkit.errors import UserError
from editkit.recipe.migrate import migrate
from editkit.recipe.schema import ONE, SEVERAL, Component, Recipe, Section

M = TypeVar("M", bound=BaseModel)
S = TypeVar("S", bound=Section)
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where every value of a loaded file was written.

    Attributes:
        path: the file that was asked for.
        places: dotted key -> "file:line" or "--set key=value".
    """

    path: Path
    places: Mapping[Key, str] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """The nearest place known for a key: its own, or that of the table around it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return str(self.path)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Source]:
    """Loads a recipe: `extends`, then `--set`, then validation.

    Args:
        path: the TOML file.
        overrides: "a.b=value" each, later ones win.

    Raises:
        UserError: every mistake, a line each, with file, line, key, what was found and what was expected.
    """
    return load_toml_model(path, Recipe, overrides)


def load_toml_model(path: str | Path, schema: type[M], overrides: Sequence[str] = ()) -> tuple[M, Source]:
    """Loads any strict model from TOML (recipes and data specs share this)."""
    path = Path(path)
    values, places = _read(path)
    if "extends" in values:
        values, places = _extend(path, values, places)
    for override in overrides:
        _override(values, places, override, schema)
    source = Source(path, places)
    values = migrate(values, source.place(("format",)))
    return _validate(schema, values, source, ()), source


def options(table: Component, schema: type[S], where: str, source: Source | None) -> S:
    """Validates the further keys of a component's table with the component's own model.

    Args:
        table: `recipe.method`, `recipe.model` or `spec.build`.
        schema: the component's `Options`.
        where: the table's name, for messages.
        source: where the table was written; None for a recipe made in code.
    """
    return _validate(schema, table.options, source or Source(Path("recipe")), (where,))


def dump(recipe: BaseModel) -> str:
    """The resolved recipe as TOML, which loads back equal."""
    return tomli_w.dumps(_without_none(recipe.model_dump(mode="json")))


def recipe_hash(recipe: BaseModel) -> str:
    """A hash of everything that the resolved recipe says."""
    return hashlib.sha256(dump(recipe).encode()).hexdigest()


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], 1)
        hint = f'; did you mean "{path.parent / near[0]}"?' if near else ""
        raise UserError(f"{path}: no such file{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a TOML file") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        at = f":{line.group(1)}" if line else f":{text.count(chr(10)) + 1}"
        raise UserError(f"{path}{at}: not valid TOML: {error}") from error
    return values, {key: f"{path}:{line}" for key, line in key_lines(text).items()}


_HEADER = re.compile(r"^\s*\[+\s*([^\]]+?)\s*\]+\s*(#.*)?$")
_ASSIGNMENT = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""")


def key_lines(text: str) -> dict[Key, int]:
    """The line (from 1) on which each table and key of a TOML text begins.

    A line counts as an assignment only where the text up to it parses as TOML, so that look-alikes inside multi-line strings
    and arrays are passed over.
    """
    found: dict[Key, int] = {}
    table: Key = ()
    lines = text.splitlines()
    open_since: int | None = None
    for number, line in enumerate(lines, 1):
        if open_since is not None:
            if _parses("\n".join(lines[open_since:number])):
                open_since = None
            continue
        if header := _HEADER.match(line):
            table = _split_key(header.group(1))
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            key = table + _split_key(assignment.group(1))
            for length in range(len(table) + 1, len(key) + 1):
                found.setdefault(key[:length], number)
            if not _parses(line):
                open_since = number - 1
    return found


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _split_key(dotted: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(r'"[^"]*"|\'[^\']*\'|[A-Za-z0-9_-]+', dotted))


def _extend(path: Path, values: dict[str, Any], places: dict[Key, str]) -> tuple[dict[str, Any], dict[Key, str]]:
    parent_name = values.pop("extends")
    if not isinstance(parent_name, str):
        raise UserError(f"{places[('extends',)]}: extends: found {parent_name!r}; expected the name of one file")
    parent = path.parent / parent_name
    parent_values, parent_places = _read(parent)
    if "extends" in parent_values:
        raise UserError(
            f"{parent_places[('extends',)]}: {parent.name} is extended by {path.name} and may not extend a third file; "
            "one level only, so that two files say everything"
        )
    return _merge(parent_values, values), {**parent_places, **places}


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(values: dict[str, Any], places: dict[Key, str], override: str, schema: type[BaseModel]) -> None:
    dotted, equals, text = override.partition("=")
    key = tuple(part.strip() for part in dotted.split("."))
    if not equals or not all(key):
        raise UserError(f'--set: found "{override}"; expected key=value, such as train.steps=200')
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values
    for part in key[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f'--set {override}: "{part}" is no table')
    table[key[-1]] = value
    places[key] = f"--set {override}"


def _validate(schema: type[M], values: Mapping[str, Any], source: Source, prefix: Key) -> M:
    try:
        return schema.model_validate(_lists_to_tuples(schema, values))
    except ValidationError as error:
        lines = [_explain(schema, values, e, source, prefix) for e in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from error


def _lists_to_tuples(schema: type[BaseModel], values: Any) -> Any:
    """TOML has no tuples: a list stands for one where the model wants one."""
    if not isinstance(values, Mapping):
        return values
    converted = dict(values)
    for name, info in schema.model_fields.items():
        if name not in converted:
            continue
        inner = _model_of(info.annotation)
        if inner is not None:
            converted[name] = _lists_to_tuples(inner, converted[name])
        elif typing.get_origin(info.annotation) is tuple and isinstance(converted[name], list):
            converted[name] = tuple(converted[name])
    return converted


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds: `Model`, `Model | None`, `list[Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is list:
        return next((m for a in typing.get_args(annotation) if (m := _model_of(a))), None)
    return None


def _explain(schema: type[BaseModel], values: Any, error: Any, source: Source, prefix: Key) -> str:
    loc, around = _without_tags(schema, [str(part) for part in error["loc"] if part not in (ONE, SEVERAL)])
    key = prefix + loc
    dotted = ".".join(key)
    place = source.place(key)
    if error["type"] == "extra_forbidden":
        known = list(around.model_fields)
        near = difflib.get_close_matches(loc[-1], known, 1, cutoff=0.5)
        elsewhere = [".".join(prefix + k) for k in _all_keys(schema) if k[-1] == loc[-1]]
        if near:
            hint = f'did you mean "{near[0]}"?'
        elif elsewhere:
            hint = f'did you mean "{elsewhere[0]}"?'
        else:
            hint = f"expected one of {', '.join(sorted(known))}"
        return f'{place}: found unknown key "{dotted}"; {hint}'
    if error["type"] == "missing":
        return f'{source.place(key[:-1]) if key[:-1] else source.path}: "{dotted}" is missing; add it'
    expected = error["msg"].removeprefix("Value error, ")
    expected = expected[0].lower() + expected[1:]
    if error["type"] == "value_error":
        return f"{place}: {dotted + ': ' if dotted else ''}{expected}"
    return f'{place}: "{dotted}": found {_toml(error["input"])}; {expected.replace("input should be", "expected")}'


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    try:
        return tomli_w.dumps({"v": list(value) if isinstance(value, tuple) else value}).partition("=")[2].strip()
    except TypeError:
        return repr(value)


def _without_tags(schema: type[BaseModel], loc: Sequence[str]) -> tuple[Key, type[BaseModel]]:
    """Where an error is, without the names by which pydantic tells the members of a union; and the innermost model there."""
    clean: list[str] = []
    rest = iter(loc)
    for part in rest:
        clean.append(part)
        info = schema.model_fields.get(part)
        members = _tagged(info) if info is not None else {}
        if members:
            tag = next(rest, None)
            schema = members.get(tag or "", schema)
        elif info is not None and len(clean) < len(loc):
            schema = _model_of(info.annotation) or schema
    return tuple(clean), schema


def _tagged(info: FieldInfo) -> dict[str, type[BaseModel]]:
    """Tag -> model, where a field is a union whose members are told apart by one of their keys."""
    found: dict[str, type[BaseModel]] = {}
    discriminator = info.discriminator or next((m for m in info.metadata if isinstance(m, Discriminator)), None)
    if discriminator is None:
        return found
    for member in typing.get_args(info.annotation):
        model, *more = typing.get_args(member) if typing.get_origin(member) is typing.Annotated else (member,)
        if isinstance(discriminator, str):
            tags = typing.get_args(model.model_fields[discriminator].annotation)
        else:
            tags = [m.tag for m in more if isinstance(m, Tag)]
        found |= {str(tag): model for tag in tags if isinstance(model, type) and issubclass(model, BaseModel)}
    return found


def _all_keys(schema: type[BaseModel], prefix: Key = ()) -> Iterator[Key]:
    for name, info in schema.model_fields.items():
        yield (*prefix, name)
        inner = _model_of(info.annotation)
        if inner is not None:
            yield from _all_keys(inner, (*prefix, name))
