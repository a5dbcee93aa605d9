"""The schemas that a repository's files must keep, and what to say when one does not.

A value that keeps its schema costs one call into the fast validator. Only one that does not pays for the slow
validator, whose findings are told here in sentences that people can act on. Neither ever asks the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import tzinfo
from functools import cache
from itertools import chain, islice
from pathlib import Path
from reprlib import Repr
from typing import Any

from reconciler.errors import ContentError, InvariantError
from reconciler.model import Violation

VIOLATIONS_MAX = 50

Pointer = tuple[str | int, ...]
Teller = Callable[[Any, Pointer], Iterator[Violation]]

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
# People who know YAML 1.1 write these and mean a truth value.
_TRUTHS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_shown = Repr()
_shown.maxstring = 80


class Contracts:
    """The schemas of one directory, each loaded when it is first asked for."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or schema_directory()
        self._schemas: dict[str, dict[str, Any]] = {}
        self._fast: dict[str, Any] = {}
        self._slow: dict[str, Any] = {}

    def check(self, name: str, value: object) -> tuple[Violation, ...]:
        """Return every way in which `value` breaks the schema `name`, at most 50; none means it keeps it."""
        if name not in self._fast:
            self._fast[name] = _fast_validator(self.schema(name))
        fast = self._fast[name]
        if fast is not None and fast.is_valid(value):
            return ()
        found = self._violations(name, value)
        if found or fast is None:
            return found
        return (Violation(path=(), reason="the file breaks its schema", cure=f"see {name}.schema.json", rule="schema"),)

    def zone(self, name: str) -> tzinfo | None:
        """Return a time zone of the IANA database, None if there is none of that name."""
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return None

    def schema(self, name: str) -> dict[str, Any]:
        """Read the schema `name`."""
        if name not in self._schemas:
            self._schemas[name] = json.loads((self._directory / f"{name}.schema.json").read_bytes())
        return self._schemas[name]

    def _violations(self, name: str, value: object) -> tuple[Violation, ...]:
        if name not in self._slow:
            self._slow[name] = _slow_validator(self.schema(name))
        errors = self._slow[name].iter_errors(value)
        told = _without_echoes(chain.from_iterable(map(_tell, errors)))
        return tuple(islice(told, VIOLATIONS_MAX))


def violations(schema: dict[str, Any], value: object) -> tuple[Violation, ...]:
    """Return every way in which `value` breaks a schema that a repository brings, at most 50.

    Raise ContentError if that is no schema, or refers to another file: nothing is ever fetched.
    """
    from jsonschema import Draft202012Validator, SchemaError
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator.check_schema(schema)
        errors = _slow_validator(schema).iter_errors(value)
        return tuple(islice(_without_echoes(chain.from_iterable(map(_tell, errors))), VIOLATIONS_MAX))
    except SchemaError as error:
        raise ContentError(f"is no JSON Schema: {error.message[:200]}") from None
    except Unresolvable as error:
        raise ContentError(f"refers to {error.ref}, which lies outside the file") from None
    except (RecursionError, re.error) as error:
        raise ContentError(f"cannot be used: {error}"[:200]) from None


def schema_directory() -> Path:
    """Find the schemas: inside the package once it is installed, beside it in a checkout."""
    package = Path(__file__).parent
    for each in (package / "schemas", package.parent / "schemas"):
        if each.is_dir():
            return each
    raise InvariantError(f"{package}: the schemas are missing; install the package again")


def _fast_validator(schema: dict[str, Any]) -> Any:
    """Return the validator that only says yes or no, None where it is not installed."""
    try:
        import jsonschema_rs
    except ImportError:
        return None
    return jsonschema_rs.validator_for(schema, retriever=_refuse)


def _refuse(uri: str) -> Any:
    raise InvariantError(f"a schema refers to {uri}, which lies outside its own file")


def _slow_validator(schema: dict[str, Any]) -> Any:
    """Return the validator that says why. Its patterns mean what the fast one reads in them."""
    from jsonschema import Draft202012Validator, ValidationError, validators
    from referencing import Registry

    def pattern(validator: Any, wanted: str, value: object, schema: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not _javascript(wanted).search(value):
            yield ValidationError("")

    extend: Any = validators.extend
    return extend(Draft202012Validator, {"pattern": pattern})(schema, registry=Registry())


@cache
def _javascript(pattern: str) -> re.Pattern[str]:
    r"""Return `pattern` as JSON Schema means it: `$` is the very end, `\d` and `\w` are ASCII."""
    return re.compile(re.sub(r"(\\.|\[[^\]]*\])|\$", lambda found: found[1] or r"\Z", pattern), re.ASCII)


# ---------------------------------------------------------------------------------------------- sentences


def _without_echoes(told: Iterator[Violation]) -> Iterator[Violation]:
    """Return the violations less the further ones of a value that is wrong in several ways for one reason."""
    seen: set[Violation | Pointer] = set()
    for each in told:
        if seen.isdisjoint((each, each.path)):
            yield each
        seen.add(each.path if each.rule in _SCALAR_RULES else each)


def _tell(error: Any) -> Iterator[Violation]:
    """Return the violations that one finding of the validator comes to."""
    pointer = tuple(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        pointer = (*pointer, error.instance)
    return _TELLERS.get(error.validator, _wrong_form)(error, pointer)


def _unknown_keys(error: Any, pointer: Pointer) -> Iterator[Violation]:
    known = list(error.schema.get("properties", ()))
    for key in error.instance:
        if key not in known:
            cure = _suggestion(key, known) or f"known keys: {', '.join(known)}"
            yield Violation(path=(*pointer, key), reason=f"unknown key {_quote(key)}", cure=cure, rule="unknown-key")


def _missing_keys(error: Any, pointer: Pointer) -> Iterator[Violation]:
    for key in error.validator_value:
        if key not in error.instance:
            reason, cure = f"key '{key}' is missing", f"add '{key}: ...'"
            yield Violation(path=pointer, reason=reason, cure=cure, rule="missing-key")


def _wrong_type(error: Any, pointer: Pointer) -> Iterator[Violation]:
    wanted = error.validator_value
    yield _mismatch(pointer, error.instance, [wanted] if isinstance(wanted, str) else wanted, error.schema)


def _mismatch(pointer: Pointer, value: Any, types: Sequence[str], schema: Mapping[str, Any]) -> Violation:
    """Return the violation of a value that has none of these types."""
    reason = f"{_label(pointer)} is {_kind(value)}, expected {_either(types)}"
    cure, rule = "", "wrong-type"
    if value is None:
        cure = "give it a value or remove the key"
    elif "string" in types and isinstance(value, bool | int | float):
        cure, rule = f'write it in quotes: "{json.dumps(value)}"', "not-text"
        if not _javascript(schema.get("pattern", "")).search(json.dumps(value)):
            cure, rule = _form(schema), "wrong-type"
    elif "boolean" in types and isinstance(value, str) and value.lower() in _TRUTHS:
        cure = f"write {_TRUTHS[value.lower()]}"
    return Violation(path=pointer, reason=reason, cure=cure, rule=rule)


def _wrong_form(error: Any, pointer: Pointer) -> Iterator[Violation]:
    """Return that a value is not what its schema's title says; `title: an id` names a form, `title: Task` a key."""
    value, title = error.instance, error.schema.get("title", "")
    reason, cure = f"{_label(pointer)} is not what its schema wants", _form(error.schema)
    if isinstance(value, str) and not value.strip():
        reason, cure = f"{_label(pointer)} is blank", "give it a value"
    elif title[:1].islower():
        reason = f"{_quote(value)} is not {title}"
    yield Violation(path=pointer, reason=reason, cure=cure, rule="wrong-form")


def _not_listed(error: Any, pointer: Pointer) -> Iterator[Violation]:
    words = [str(each) for each in error.validator_value]
    reason = f"{_label(pointer)} is {_kind(error.instance)}, expected one of: {', '.join(words)}"
    yield Violation(path=pointer, reason=reason, cure=_suggestion(error.instance, words), rule="not-listed")


def _out_of_range(words: str) -> Teller:
    def tell(error: Any, pointer: Pointer) -> Iterator[Violation]:
        reason = f"{_label(pointer)} is {json.dumps(error.instance)}, expected {words} {error.validator_value}"
        yield Violation(path=pointer, reason=reason, cure="", rule="out-of-range")

    return tell


def _wrong_length(words: str, unit: str) -> Teller:
    def tell(error: Any, pointer: Pointer) -> Iterator[Violation]:
        length = len(error.instance)
        reason = f"{_label(pointer)} has {length} {unit}" if length else f"{_label(pointer)} is empty"
        cure = f"{words} {error.validator_value} allowed" if length else "give it a value"
        yield Violation(path=pointer, reason=reason, cure=cure, rule="wrong-length")

    return tell


def _twice(error: Any, pointer: Pointer) -> Iterator[Violation]:
    seen: set[str] = set()
    for index, each in enumerate(error.instance):
        spelled = json.dumps(each, sort_keys=True)
        if spelled in seen:
            reason = f"{_label(pointer)} holds {_kind(each)} twice"
            yield Violation(path=(*pointer, index), reason=reason, cure="keep one", rule="twice")
        seen.add(spelled)


def _no_alternative(error: Any, pointer: Pointer) -> Iterator[Violation]:
    """Return what is wrong with the alternative that was probably meant: the first whose type fits."""
    keys = _exclusive_keys(error.validator_value)
    fitting = [each for each in error.context if each.validator != "type" or each.relative_path]
    if keys and isinstance(error.instance, dict):
        yield _wrong_count(error, pointer, keys)
    elif fitting:
        meant = fitting[0].relative_schema_path[0]
        yield from chain.from_iterable(_tell(each) for each in fitting if each.relative_schema_path[0] == meant)
    elif error.context:
        types = [each.validator_value for each in error.context if each.validator == "type"]
        yield _mismatch(pointer, error.instance, types, error.schema)
    else:
        yield from _wrong_form(error, pointer)


def _exclusive_keys(alternatives: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of which exactly one is wanted, if that is all the alternatives are about."""
    if all(each.keys() == {"required"} for each in alternatives):
        return [key for each in alternatives for key in each["required"]]
    return []


def _wrong_count(error: Any, pointer: Pointer, keys: Sequence[str]) -> Violation:
    known = error.instance.get("id")
    label = f"{error.schema['title'].lower()} {_quote(known)}" if isinstance(known, str) else _label(pointer)
    present = [_quote(key) for key in keys if key in error.instance]
    count, cure = f"has none of {', '.join(keys)}", "add one of them"
    if present:
        count, cure = f"has both {' and '.join(present)}", f"exactly one of {', '.join(keys)}"
    return Violation(path=pointer, reason=f"{label} {count}", cure=cure, rule="exactly-one")


def _label(pointer: Pointer) -> str:
    """Return what a message calls the value at `pointer`; line and column say the rest."""
    if not pointer:
        return "the file"
    *before, last = pointer
    return _quote(last) if isinstance(last, str) else f"item {last + 1} of {_label(tuple(before))}"


def _kind(value: object) -> str:
    """Return what a message calls `value` when it is of the wrong kind."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"a number ({value})"
        case str():
            return _quote(value)
        case list():
            return "a list"
        case _:
            return "a mapping"


def _either(types: Sequence[str]) -> str:
    words = [_TYPES[each] for each in types if not (each == "integer" and "number" in types)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _form(schema: Mapping[str, Any]) -> str:
    """Return the sentence that a schema's title and description make: `a label is a word to group by`."""
    title, description = str(schema.get("title", "")), str(schema.get("description", ""))
    if not title[:1].islower() or not description:
        return ""
    return f"{title} is {description[0].lower()}{description[1:]}".rstrip(".").replace("`", "'")


def _suggestion(word: object, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(str(word)[:100], known, n=1)
    return f"did you mean '{close[0]}'?" if close else ""


def _quote(text: object) -> str:
    return _shown.repr(text)


_SCALAR_RULES = frozenset({"wrong-type", "not-text", "wrong-form", "wrong-length", "not-listed", "out-of-range"})

_TELLERS: Mapping[str, Teller] = {
    "additionalProperties": _unknown_keys,
    "required": _missing_keys,
    "type": _wrong_type,
    "enum": _not_listed,
    "minimum": _out_of_range("at least"),
    "maximum": _out_of_range("at most"),
    "exclusiveMinimum": _out_of_range("more than"),
    "exclusiveMaximum": _out_of_range("less than"),
    "minLength": _wrong_length("at least", "characters"),
    "maxLength": _wrong_length("at most", "characters"),
    "minItems": _wrong_length("at least", "items"),
    "maxItems": _wrong_length("at most", "items"),
    "minProperties": _wrong_length("at least", "entries"),
    "maxProperties": _wrong_length("at most", "entries"),
    "uniqueItems": _twice,
    "anyOf": _no_alternative,
    "oneOf": _no_alternative,
}
