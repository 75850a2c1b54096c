"""Bytes: what may be stored, its canonical form, and the bodies of messages.

Three questions are answered here and nowhere else.

*What may be stored, and as what?* Exact types only; `freeze` turns a user's value into its stored
form: scalars are immutable and stored as they are, anything compound becomes its canonical bytes in
a 1-tuple, so that no reference leads into or out of a replica. `step_of` does the same for elements
and keys: str, bytes and int are their own identity, everything else that Python would confuse with
them (True == 1 == 1.0) is identified by its canonical bytes.

*What is canonical?* Map keys sorted by their encoded bytes, shortest ints, integers beyond 64 bits
in an extension of their own, float64 only, one NaN pattern, datetimes in UTC microseconds. Equal
content gives equal bytes under every hash seed, and bytes that are not canonical do not decode.

*What may a forger do?* Nothing costly. `unpack` first walks a message without building anything,
which proves that every announced element is really there; only then it is built. Depth is limited,
and by the envelope (`crdt.kernel.envelope`) the size.

msgpack is known to this module alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types

from crdt.errors import (
    DecodeError,
    InvalidValueError,
    InvalidValueRangeError,
    InvalidValueTypeError,
)
from crdt.kernel.limits import INT_BYTES_MAX, INT_MAX, INT_MIN, NESTING_MAX, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

_HARMLESS_BYTES = 256  # a forger cannot announce more than this times its depth

Scalar = None | bool | int | float | str | bytes | datetime
Stored = Scalar | tuple[bytes]  # a 1-tuple holds the canonical bytes of a compound value
Step = str | bytes | int | tuple[bytes]  # last part of a path: an element, a key, or ""

_BIGINT, _DATETIME, _TUPLE, _PACKED = 1, 2, 3, 4
_NAN = float("nan")
_NAN_BYTES = b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RAW_STEPS = frozenset({str, bytes, int})
_KEY_TYPES = frozenset({type(None), bool, int, float, str, bytes, tuple, datetime})
_SCALAR_TYPES = frozenset({type(None), bool, int, str, bytes})

_KEY_HINT = "elements, keys: None, bool, int, float, str, bytes, aware datetime, tuple of these"

_packer = msgpack.Packer(use_bin_type=True, strict_types=True)


# ---------------------------------------------------------------------------------- values in


def encode_value(value: object) -> bytes:
    """The canonical bytes of a value. O(size).

    Raises:
        InvalidValueTypeError: a type that is not storable, subclasses of storable ones included.
        InvalidValueRangeError: NaN in a key, lone surrogate, naive datetime, nested too deep.
    """
    try:
        return _encode(value, NESTING_MAX)
    except InvalidValueError as error:
        error.where = _where(value, NESTING_MAX)
        raise


def _where(value: object, depth: int) -> str:
    """Which part of a value is refused, as a reader would point to it: `[3].note`."""
    if type(value) is dict:
        for key, item in value.items():
            try:
                _encode_key(key, depth - 1)
            except InvalidValueError:
                return f" key {shown(key)}"
            if _is_refused(item, depth - 1):
                plain = type(key) is str and key.isidentifier()
                return (f".{key}" if plain else f"[{shown(key)}]") + _where(item, depth - 1)
    elif type(value) in {list, tuple}:
        for index, item in enumerate(value):  # type: ignore[arg-type]  # a list or a tuple
            if _is_refused(item, depth - 1):
                return f"[{index}]{_where(item, depth - 1)}"
    return ""


def _is_refused(value: object, depth: int) -> bool:
    try:
        _encode(value, depth)
    except InvalidValueError:
        return True
    return False


def _encode(value: object, depth: int) -> bytes:
    kind = type(value)
    encode = _ENCODERS.get(kind)
    if encode is None:
        raise InvalidValueTypeError(f"cannot store a {kind.__name__}: {shown(value)}")
    if depth < 0:
        raise InvalidValueRangeError(
            f"nested deeper than {NESTING_MAX} levels", hint="use an ORMap, or keep it flat"
        )
    return encode(value, depth)


def _encode_plain(value: object, _depth: int) -> bytes:
    return bytes(_packer.pack(value))


def _encode_int(value: int, _depth: int) -> bytes:
    if -(1 << 63) <= value < 1 << 64:
        return bytes(_packer.pack(value))
    check_int(value)
    return bytes(msgpack.packb(msgpack.ExtType(_BIGINT, _bigint(value))))


def check_int(value: int) -> None:
    """Raise InvalidValueRangeError for an integer that is longer than any may be. O(1)."""
    if not INT_MIN <= value <= INT_MAX:
        raise InvalidValueRangeError(
            f"an integer of {value.bit_length() // 8 + 1} bytes, allowed are {INT_BYTES_MAX}",
            hint="store its bytes or its text",
        )


def shown(value: object) -> str:
    """The beginning of a repr, whatever the repr does."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001  # somebody else's repr: the refusal matters more
        return "its repr raises"


def _encode_float(value: float, _depth: int) -> bytes:
    return _NAN_BYTES if value != value else bytes(_packer.pack(value))  # noqa: PLR0124  # is NaN


def _encode_str(value: str, _depth: int) -> bytes:
    try:
        return bytes(_packer.pack(value))
    except UnicodeEncodeError as error:
        raise InvalidValueRangeError(f"a lone surrogate is not text: {value!r:.80}") from error


def _encode_datetime(value: datetime, _depth: int) -> bytes:
    return bytes(msgpack.packb(msgpack.ExtType(_DATETIME, _micros(value))))


def _encode_list(value: list[object], depth: int) -> bytes:
    return _array_header(len(value)) + b"".join([_encode(item, depth - 1) for item in value])


def _encode_tuple(value: tuple[object, ...], depth: int) -> bytes:
    body = _array_header(len(value)) + b"".join([_encode(item, depth - 1) for item in value])
    return bytes(msgpack.packb(msgpack.ExtType(_TUPLE, body)))


def _encode_dict(value: dict[object, object], depth: int) -> bytes:
    items = sorted(
        (_encode_key(key, depth - 1), _encode(item, depth - 1)) for key, item in value.items()
    )
    count = len(items)
    header = bytes([0x80 | count]) if count < 16 else b"\xdf" + count.to_bytes(4, "big")
    return header + b"".join([part for item in items for part in item])


def _encode_key(key: object, depth: int) -> bytes:
    encoded = _encode(key, depth)
    _check_key(key)
    return encoded


def _check_key(key: object) -> None:
    if type(key) not in _KEY_TYPES:
        raise InvalidValueTypeError(
            f"cannot be a key or an element: {type(key).__name__}", hint=_KEY_HINT
        )
    if type(key) is tuple:
        for part in key:
            _check_key(part)
    elif type(key) is float and key != key:  # noqa: PLR0124  # the definition of NaN
        raise InvalidValueRangeError(
            "NaN is not equal to itself: no key, no element", hint=_KEY_HINT
        )


def _array_header(count: int) -> bytes:
    return bytes([0x90 | count]) if count < 16 else b"\xdd" + count.to_bytes(4, "big")


def _bigint(value: int) -> bytes:
    return value.to_bytes((value + (value < 0)).bit_length() // 8 + 1, "big", signed=True)


def _micros(value: datetime) -> bytes:
    return ((utc(value) - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True)


def utc(value: datetime) -> datetime:
    """The same instant in UTC, as a plain datetime; a naive one is refused."""
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidValueRangeError(
            f"a naive datetime names no instant: {value!r}", hint="datetime.now(UTC), for instance"
        )
    try:
        return value.astimezone(UTC).replace(fold=0)
    except OverflowError as error:
        raise InvalidValueRangeError(f"not representable in UTC: {value!r}") from error


_ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    type(None): _encode_plain,
    bool: _encode_plain,
    bytes: _encode_plain,
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    datetime: _encode_datetime,
    list: _encode_list,
    tuple: _encode_tuple,
    dict: _encode_dict,
}


def freeze(value: object) -> Stored:
    """The stored form of a user's value; raises like `encode_value`, and over VALUE_BYTES_MAX."""
    kind = type(value)
    if kind in _SCALAR_TYPES and (kind is not str or is_text(value)):
        if kind is bytes:
            _check_size(value)  # type: ignore[arg-type]  # checked by exact type
        elif kind is int:
            check_int(value)  # type: ignore[arg-type]  # as above
        return value  # type: ignore[return-value]  # one of the scalars, by its exact type
    if kind is float:
        return _NAN if value != value else value  # type: ignore[return-value]  # noqa: PLR0124
    if kind is datetime:
        return utc(value)  # type: ignore[arg-type]  # checked by exact type
    encoded = encode_value(value)
    _check_size(encoded)
    return (encoded,)


def is_text(value: object) -> bool:
    """Whether this exact str can be encoded (no lone surrogates); InvalidValueError if too long."""
    text: str = value  # type: ignore[assignment]  # callers checked the exact type
    if text.isascii():
        if len(text) > VALUE_BYTES_MAX:
            _check_size(text.encode())
        return True
    try:
        _check_size(text.encode())
    except UnicodeEncodeError:
        return False
    return True


def _check_size(encoded: bytes) -> None:
    if len(encoded) > VALUE_BYTES_MAX:
        raise InvalidValueRangeError(
            f"{len(encoded)} bytes, allowed are {VALUE_BYTES_MAX}",
            hint="store it elsewhere and its name here, or cut it in parts",
        )


def step_of(element: object) -> Step:
    """The identity of an element or key; raises like `encode_value`, and for NaN, list and dict."""
    kind = type(element)
    if kind in _RAW_STEPS and (kind is not str or is_text(element)):
        if kind is bytes:
            _check_size(element)  # type: ignore[arg-type]  # checked by exact type
        elif kind is int:
            check_int(element)  # type: ignore[arg-type]  # as above
        return element  # type: ignore[return-value]  # one of the raw steps, by its exact type
    try:
        encoded = _encode_key(element, NESTING_MAX)
    except InvalidValueError as error:
        if error.hint == InvalidValueError.hint:
            error.advise(_KEY_HINT)
        raise
    _check_size(encoded)
    return (encoded,)


# --------------------------------------------------------------------------------- values out


def decode_value(data: bytes) -> Any:
    """The value of canonical bytes. O(size) time and memory, whatever the bytes announce.

    Raises:
        DecodeError: not one complete canonical value.
    """
    value = _decode(data, NESTING_MAX)
    try:
        canonical = encode_value(value)
    except (InvalidValueTypeError, InvalidValueRangeError) as error:
        raise DecodeError(f"bytes of a value that cannot be stored: {error}") from error
    if canonical != data:
        raise DecodeError("bytes of a value that are not in canonical form")
    return value


def _decode(data: bytes, depth: int) -> Any:
    if depth < 0:
        raise DecodeError(f"nested deeper than {NESTING_MAX} levels")
    return unpack(data, partial(_value_ext, depth))


def _value_ext(depth: int, code: int, data: bytes) -> Any:
    if code == _TUPLE:
        items = _decode(data, depth - 1)
        if type(items) is not list:
            raise DecodeError("a tuple without its items")
        return tuple(items)
    return _scalar_ext(code, data)


def _scalar_ext(code: int, data: bytes) -> Scalar:
    if code == _BIGINT:
        if len(data) > INT_BYTES_MAX:
            raise DecodeError(f"an integer of {len(data)} bytes, allowed are {INT_BYTES_MAX}")
        value = int.from_bytes(data, "big", signed=True)
        if -(1 << 63) <= value < 1 << 64 or _bigint(value) != data:
            raise DecodeError("a big integer that is not in canonical form")
        return value
    if code == _DATETIME and len(data) == 8:
        try:
            return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))
        except OverflowError as error:
            raise DecodeError("a time outside of the calendar") from error
    raise DecodeError(f"unknown extension {code}")


def thaw(stored: Stored) -> Any:
    """The user's value of a stored one: a fresh object that may be changed freely."""
    if type(stored) is tuple:
        return msgpack.unpackb(stored[0], strict_map_key=False, ext_hook=_trusted_ext)
    return stored


def _trusted_ext(code: int, data: bytes) -> Any:
    if code == _TUPLE:
        return tuple(msgpack.unpackb(data, strict_map_key=False, ext_hook=_trusted_ext))
    return _scalar_ext(code, data)


def element_of(step: Step) -> Any:
    """The element or key that a step identifies."""
    return thaw(step) if type(step) is tuple else step


def order_of(stored: Stored) -> bytes:
    """Bytes by which stored values are put in one order everywhere."""
    return stored[0] if type(stored) is tuple else encode_value(stored)


# ------------------------------------------------------------------------------------ columns


def pack(body: list[Any]) -> bytes:
    """A body of nested lists over stored values."""
    return bytes(msgpack.packb(body, use_bin_type=True, strict_types=True, default=_pack_stored))


def listed(packed: list[bytes]) -> bytes:
    """`pack` of a list whose items are packed already."""
    return bytes(_packer.pack_array_header(len(packed))) + b"".join(packed)


def _pack_stored(value: object) -> msgpack.ExtType:
    if type(value) is tuple:
        return msgpack.ExtType(_PACKED, value[0])
    if type(value) is datetime:
        return msgpack.ExtType(_DATETIME, _micros(value))
    if type(value) is int:
        return msgpack.ExtType(_BIGINT, _bigint(value))
    raise InvalidValueTypeError(f"not a stored value: {type(value).__name__}")


def unpack(
    data: bytes,
    ext_hook: Callable[[int, bytes], Any],
    container_hook: Callable[[Any], Any] | None = None,
) -> Any:
    """One msgpack object that is exactly `data`; a forged length is found before it allocates."""
    try:
        if len(data) > _HARMLESS_BYTES:
            walker = msgpack.Unpacker(max_buffer_size=len(data))
            walker.feed(data)
            walker.skip()
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            ext_hook=ext_hook,
            list_hook=container_hook,
            object_hook=container_hook,
        )
    except DecodeError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(f"not a message: {type(error).__name__} {error}") from error


def parts_in(data: bytes, parts_max: int | None = None) -> int:
    """How many parts the lists, dicts and tuples of encoded values have. O(size), mostly in C.

    Each of these counts as twelve more: to make one, and to see whether it is in canonical form,
    takes so much longer.

    Raises:
        DecodeError: more than `parts_max`, which is found out at once; or not values.
    """
    if len(data) <= 1:
        return 0
    count = 0

    def counted(container: Any) -> None:
        nonlocal count
        count += _LIST_PARTS + len(container)
        if parts_max is not None and count > parts_max:
            raise DecodeError(f"more than {parts_max} parts of values")

    def extension(code: int, inner: bytes) -> None:
        if code == _TUPLE:
            unpack(inner, extension, counted)

    unpack(data, extension, counted)
    return count


# What may begin a list or a map: where there are few of these bytes, there are no more of those.
_OPENERS: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_LIST_PARTS = 12
_PARTS_PER_LIST = 4  # as many parts as its values may have, for each list and map of a body


class Budget:
    """What the bodies of one message may still hold together: parts of values, lists and maps.

    Values have `parts_max` parts, and there are a quarter as many lists and maps beside them: each
    of those is made, and a few bytes may ask for a million.
    """

    __slots__ = ("lists", "values")

    def __init__(self, parts_max: int) -> None:
        self.values = parts_max
        self.lists = parts_max // _PARTS_PER_LIST


def unpack_body(
    data: bytes, part_bytes_max: int = VALUE_BYTES_MAX, budget: Budget | None = None
) -> Any:
    """The body that `pack` made; stored values come back in stored form, checked."""
    body = unpack(data, _stored_ext) if budget is None else _unpack_counted(data, budget)
    if len(data) > part_bytes_max:  # else nothing in it can be too large
        _refuse_large(body, part_bytes_max)
    return body


def _unpack_counted(data: bytes, budget: Budget) -> Any:
    def counted(container: Any) -> Any:
        budget.lists -= 1
        if budget.lists < 0:
            raise DecodeError("more lists and maps than a body of this size needs")
        return container

    def extension(code: int, inner: bytes) -> Any:
        if code == _PACKED:
            budget.values -= parts_in(inner, budget.values)
        return _stored_ext(code, inner)

    openers = len(data) - len(data.translate(None, _OPENERS))
    if openers > budget.lists:
        return unpack(data, extension, counted)
    budget.lists -= openers  # so many at most: not worth a call for each
    return unpack(data, extension)


def _refuse_large(body: Any, bytes_max: int) -> None:
    rest = [body]
    while rest:
        part = rest.pop()
        if type(part) in {list, tuple}:
            rest.extend(part)
        elif type(part) in {str, bytes} and 4 * len(part) > bytes_max:
            size = len(part.encode() if type(part) is str else part)
            if size > bytes_max:
                raise DecodeError(f"a part of {size} bytes, allowed are {bytes_max}")


def _stored_ext(code: int, data: bytes) -> Any:
    if code == _PACKED:
        if type(decode_value(data)) not in {list, dict, tuple, bool, float, type(None), datetime}:
            raise DecodeError("a plain scalar in packed form")
        return (data,)
    return _scalar_ext(code, data)


def normal(value: Stored) -> Stored:
    """A decoded scalar with its one NaN pattern."""
    return _NAN if value != value else value  # noqa: PLR0124  # the definition of NaN
