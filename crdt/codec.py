"""Codecs: values of types that are not storable, converted where a view writes and reads them.

A replica stores exact types only (see `crdt.kernel.codec`), because what it stores must mean the
same to everybody for ever. A program that wants its prices as Decimal and its orders as dataclasses
gives a view a codec, and the view converts at its two ends: what is written is encoded before
anything changes, what is read is decoded anew each time.

    prices = agent.document("prices", LWWMap.of(Decimal))
    state = LWWRegister.of(Codec(encode=State.to_row, decode=State.from_row))("a")

A codec belongs to the view and not to the document: it never travels, equal values have equal
bytes as before, and who reads without it sees what is stored. So the codecs of a document are
something that its readers agree on, like the meaning of its values. What cannot be converted is a
CodecError: at a write, where an encoded value that could not be read again is refused as well,
nothing has changed; at a read, nothing ever does.

`Codec.of` knows how common types are stored:

    Decimal, Fraction, UUID         their text                date, time       ISO 8601 text
    timedelta                       whole microseconds        Enum             the member's name
    Flag                            its number                dataclass        {field: stored field}
    list, tuple, set, frozenset, dict, X | None of all these  as lists, tuples and dicts
    models with `model_dump_json` and `model_validate_json` (pydantic's)       what JSON holds

It takes exact types, as storing does: a subclass would not come back as what it was. Fields that a
dataclass does not know are left out on reading and missing ones take their defaults, so that old
and new versions of a program read each other.
"""

from __future__ import annotations

import dataclasses
import json
import types
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from crdt.errors import CodecError, CRDTError, InvalidValueTypeError
from crdt.kernel import encode_value

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_STORABLE = (type(None), bool, int, float, str, bytes, datetime, tuple, list, dict)
_MICROSECOND = timedelta(microseconds=1)


class Codec(Generic[T]):
    """How the values of one type are stored: `encode` makes a storable value, `decode` takes it.

    Both are pure: the same value gives the same stored value on every replica.
    """

    __slots__ = ("_decode", "_encode", "name")

    def __init__(
        self, encode: Callable[[T], Any], decode: Callable[[Any], T], *, name: str = ""
    ) -> None:
        self._encode = encode
        self._decode = decode
        self.name = name or getattr(encode, "__qualname__", "a codec")

    def encode(self, value: T) -> Any:
        """The storable value, one that `decode` takes; CodecError if there is none."""
        try:
            stored = self._encode(value)
            self._decode(stored)
        except CRDTError:
            raise
        except Exception as error:
            raise CodecError(f"{value!r:.80} cannot be stored", self.name, error) from error
        return stored

    def decode(self, stored: Any) -> T:
        """The value of what is stored; CodecError if somebody stored what this does not read."""
        try:
            return self._decode(stored)
        except CRDTError:
            raise
        except Exception as error:
            raise CodecError(f"{stored!r:.80} cannot be read", self.name, error) from error

    def __repr__(self) -> str:
        return f"Codec({self.name})"

    @staticmethod
    def of(kind: Codec[T] | type[T]) -> Codec[T]:
        """The codec of a type (see this module), or the codec itself. O(fields).

        Raises:
            InvalidValueTypeError: it is not known how such a type is stored.
        """
        return kind if isinstance(kind, Codec) else _codec(kind, {})


def _codec(kind: Any, known: dict[Any, Codec[Any]]) -> Codec[Any]:
    """The codec of a type or of a hint; `known` holds those under way, for types of themselves."""
    if isinstance(kind, Codec):
        return kind
    if kind in (Any, object):
        return Codec(_same, _same, name="Any")
    if kind is None:
        kind = type(None)
    if get_origin(kind) is not None:
        return _of_generic(kind, known)
    if not isinstance(kind, type):
        raise InvalidValueTypeError(f"no type to convert: {kind!r}; give Codec(encode, decode)")
    return known.get(kind) or _PLAIN.get(kind) or _of_class(kind, known)


def _of_class(kind: Any, known: dict[Any, Codec[Any]]) -> Codec[Any]:
    name = kind.__name__
    if issubclass(kind, Flag):
        return Codec(_exact(kind, lambda flag: flag.value), _exact(int, kind), name=name)
    if issubclass(kind, Enum):
        return Codec(_exact(kind, lambda member: member.name), kind.__getitem__, name=name)
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind, known)
    if hasattr(kind, "model_dump_json") and hasattr(kind, "model_validate_json"):
        return Codec(
            _exact(kind, lambda model: json.loads(model.model_dump_json(by_alias=True))),
            lambda stored: kind.model_validate_json(json.dumps(stored)),
            name=name,
        )
    raise InvalidValueTypeError(
        f"it is not known how a {name} is stored; give Codec(encode, decode)"
    )


def _same(value: Any) -> Any:
    return value


def _exact(kind: type, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def converted(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"wanted {kind.__name__}, not {type(value).__name__}")
        return convert(value)

    return converted


def _of_dataclass(kind: Any, known: dict[Any, Codec[Any]]) -> Codec[Any]:
    fields: dict[str, Codec[Any]] = {}

    def encode(value: Any) -> dict[str, Any]:
        return {name: codec.encode(getattr(value, name)) for name, codec in fields.items()}

    def decode(stored: dict[str, Any]) -> Any:
        present = [name for name in fields if name in stored]
        return kind(**{name: fields[name].decode(stored[name]) for name in present})

    made: Codec[Any] = Codec(_exact(kind, encode), _exact(dict, decode), name=kind.__name__)
    known[kind] = made
    try:
        hints = get_type_hints(kind)
    except Exception as error:
        raise InvalidValueTypeError(f"the hints of {kind.__name__} have no meaning here") from error
    for field in dataclasses.fields(kind):
        if field.init:
            fields[field.name] = _codec(hints[field.name], known)
    return made


def _of_generic(kind: Any, known: dict[Any, Codec[Any]]) -> Codec[Any]:
    origin, args, name = get_origin(kind), get_args(kind), str(kind)
    if origin in (Union, types.UnionType):
        inner = [_codec(each, known) for each in args if each is not type(None)]
        if len(inner) == 1 and len(args) == 2:
            only = inner[0]
            return Codec(
                lambda value: None if value is None else only.encode(value),
                lambda stored: None if stored is None else only.decode(stored),
                name=name,
            )
    elif origin is dict and len(args) == 2:
        keys, values = (_codec(each, known) for each in args)
        return Codec(
            _exact(dict, lambda value: {keys.encode(k): values.encode(value[k]) for k in value}),
            _exact(dict, lambda stored: {keys.decode(k): values.decode(stored[k]) for k in stored}),
            name=name,
        )
    elif origin is tuple and args[-1:] != (Ellipsis,):
        parts = [_codec(each, known) for each in args]
        return Codec(
            _exact(tuple, lambda v: tuple(p.encode(e) for p, e in zip(parts, v, strict=True))),
            _exact(tuple, lambda s: tuple(p.decode(e) for p, e in zip(parts, s, strict=True))),
            name=name,
        )
    elif origin in (list, tuple):
        each = _codec(args[0], known)
        return Codec(
            _exact(origin, lambda value: origin(map(each.encode, value))),
            _exact(origin, lambda stored: origin(map(each.decode, stored))),
            name=name,
        )
    elif origin in (set, frozenset):
        each = _codec(args[0], known)
        return Codec(
            _exact(origin, lambda value: sorted(map(each.encode, value), key=encode_value)),
            _exact(list, lambda stored: origin(map(each.decode, stored))),
            name=name,
        )
    raise InvalidValueTypeError(f"it is not known how {name} is stored; give Codec(encode, decode)")


_PLAIN: dict[type, Codec[Any]] = {
    kind: Codec(_exact(kind, _same), _exact(kind, _same), name=kind.__name__) for kind in _STORABLE
}
_PLAIN |= {
    kind: Codec(_exact(kind, str), _exact(str, kind), name=kind.__name__)
    for kind in (Decimal, Fraction, UUID)
}
_PLAIN |= {
    kind: Codec(_exact(kind, kind.isoformat), _exact(str, kind.fromisoformat), name=kind.__name__)
    for kind in (date, time)
}
_PLAIN[timedelta] = Codec(
    _exact(timedelta, lambda value: value // _MICROSECOND),
    _exact(int, lambda stored: stored * _MICROSECOND),
    name="timedelta",
)
