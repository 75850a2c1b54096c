"""Codecs: values that are not storable, converted where a view writes and reads them."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum, auto
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from crdt import (
    Codec,
    CodecError,
    Delta,
    GSet,
    InvalidValueError,
    Kernel,
    LWWMap,
    LWWRegister,
    MVRegister,
    ORMap,
    ORSet,
    RWSet,
)

ID = UUID("12345678-1234-5678-1234-567812345678")


class Colour(Enum):
    RED = (frozenset(),)  # values that no replica could store
    BLUE = (frozenset({1}),)


class Level(IntEnum):
    LOW = 1


class Rights(Flag):
    READ = auto()
    WRITE = auto()


@dataclass(frozen=True)
class Line:
    item: UUID
    price: Decimal
    colour: Colour | None = None


@dataclass
class Order:
    day: date
    lines: list[Line]
    by_name: dict[str, Decimal] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    pair: tuple[int, Decimal] = (0, Decimal(0))
    spans: tuple[timedelta, ...] = ()
    extra: Any = None
    parent: "Order | None" = None


ORDER = Order(
    date(2026, 1, 2),
    [Line(ID, Decimal("1.10"), Colour.RED), Line(ID, Decimal(2))],
    {"a": Decimal("0.1")},
    frozenset({"x", "y"}),
    (1, Decimal("1E+3")),
    (timedelta(days=-1, microseconds=3),),
    [1, {"k": None}],
    Order(date(2025, 1, 1), []),
)
VALUES = [
    (Decimal, Decimal("1.100"), "1.100"),
    (Fraction, Fraction(1, 3), "1/3"),
    (UUID, ID, str(ID)),
    (date, date(2026, 1, 2), "2026-01-02"),
    (time, time(1, 2, 3, tzinfo=UTC), "01:02:03+00:00"),
    (timedelta, timedelta(days=-1, microseconds=5), -86_399_999_995),
    (Colour, Colour.BLUE, "BLUE"),
    (Level, Level.LOW, "LOW"),
    (Rights, Rights.READ | Rights.WRITE, 3),
    (Line, Line(ID, Decimal(2)), {"item": str(ID), "price": "2", "colour": None}),
    (Order, ORDER, None),
    (int, 5, 5),
    (datetime, datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
    (list[Decimal], [Decimal(1)], ["1"]),
    (dict[UUID, Colour], {ID: Colour.RED}, {str(ID): "RED"}),
    (set[int], {3, 1}, [1, 3]),
    (tuple[int, ...], (1, 2), (1, 2)),
    (Decimal | None, None, None),
]
IDS = [str(kind) for kind, *_ in VALUES]


@pytest.mark.parametrize(("kind", "value", "stored"), VALUES, ids=IDS)
def test_a_value_goes_in_and_comes_out_as_what_it_was(kind, value, stored):
    """By register, by the value of a map, over the wire and a restart; plain readers see text."""
    register = LWWRegister.of(kind)("a")
    delta = register.set(value)
    assert register.value == value
    assert type(register.value) is type(value)
    plain = LWWRegister("b")
    plain.apply(Delta.decode(delta.encode()))
    assert stored is None or plain.value == stored
    again = LWWRegister.of(kind).from_bytes(plain.to_bytes(), replica="b")
    assert again.value == value
    assert again.fork("c").value == value
    values, the_map = MVRegister.of(kind)("m"), LWWMap.of(kind)("l")
    values.set(value)
    assert values.value == (value,)
    the_map["k"] = value
    the_map.update({"l": value}, m=value)
    the_map |= {"n": value}
    assert the_map["k"] == the_map.get("n") == value
    assert the_map == dict.fromkeys("klmn", value)
    assert dict(the_map.items()) == the_map.value
    assert the_map.pop("l") == the_map.setdefault("k", value) == value


def test_models_that_speak_json_are_values():
    """Pydantic's, strict ones and aliases too; the package itself never imports it."""
    pydantic = pytest.importorskip("pydantic", exc_type=ImportError)

    class Item(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True, frozen=True)
        price: Decimal
        day: date = pydantic.Field(alias="theDay")
        colour: Rights = Rights.READ

    item = Item(price=Decimal("1.5"), theDay=date(2026, 1, 2))
    items = LWWMap.of(Item)("a")
    items["x"] = item
    assert items["x"] == item
    assert type(items["x"]) is Item
    assert LWWMap.from_bytes(items.to_bytes(), replica="b")["x"] == {
        "price": "1.5", "theDay": "2026-01-02", "colour": 1,
    }  # fmt: skip
    with pytest.raises(CodecError):
        items["x"] = {"price": 1}


@pytest.mark.parametrize("kind", [GSet, ORSet, RWSet], ids=lambda kind: kind.__name__)
def test_elements_are_converted(kind):
    """Adding, asking, iterating, the operators in place, and removing."""
    view = kind.of(UUID)("a")
    other = UUID(int=7)
    view.add(ID)
    view |= {ID, other}
    assert view == {ID, other}
    assert set(view) == {ID, other}
    assert ID in view
    assert str(ID) not in view
    assert UUID(int=8) not in view
    assert kind.from_bytes(view.to_bytes(), replica="b") == {str(ID), str(other)}
    if kind is not GSet:
        view -= {other}
        view &= {ID, UUID(int=9)}
        view ^= {ID, other}
        view.remove(UUID(int=9))
        assert view.pop() == other
    with pytest.raises(CodecError):
        view.add("text")


def test_keys_are_converted():
    """Put, asked for, listed, deleted; what is no key is absent, and cannot be put."""
    prices = LWWMap.of(Decimal, keys=UUID)("a")
    prices[ID] = Decimal("1.5")
    prices |= {UUID(int=1): Decimal(2)}
    assert prices == {ID: Decimal("1.5"), UUID(int=1): Decimal(2)}
    assert list(prices) == [ID, UUID(int=1)]
    assert ID in prices
    assert str(ID) not in prices
    assert prices.get("text") is None
    with pytest.raises(KeyError):
        prices[str(ID)]
    with pytest.raises(CodecError):
        prices["text"] = Decimal(1)
    del prices[ID]
    prices.delete(UUID(int=1))
    assert prices == {}


class Odd:
    """A value whose codec refuses at will."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and self.number == other.number

    __hash__ = None


def odd_of(stored: int) -> Odd:
    return Odd(100 // stored)


ODD = Codec(lambda odd: odd.number, odd_of, name="odd")


def test_a_conversion_that_fails_changes_nothing():
    """Of another type, of no storable form, or one that could not be read again: typed, whole."""
    register, values, the_map = (
        LWWRegister.of(ODD)("r"),
        MVRegister.of(ODD)("v"),
        LWWMap.of(ODD)("m"),
    )
    register.set(Odd(10))
    assert register.value == Odd(10)
    for view in (register, values, the_map):
        before = view.canonical_bytes()
        for wrong in (5, Odd(0), None):
            with pytest.raises(CodecError, match="odd"):
                view.put("k", wrong) if view is the_map else view.set(wrong)
        with pytest.raises(CodecError), view.batch():
            view.put("k", 5) if view is the_map else view.set(5)
        assert view.canonical_bytes() == before
    with the_map.batch():
        the_map["good"] = Odd(1)
        with pytest.raises(CodecError):
            the_map.update({"a": Odd(2), "b": Odd(0)})
        with pytest.raises(CodecError):
            the_map |= {"a": Odd(2), "b": 7}
    assert list(the_map) == ["good"]
    bad = LWWRegister.of(Codec(lambda value: {value}, lambda stored: stored))("b")
    with pytest.raises(InvalidValueError):
        bad.set(1)
    assert not bad.kernel.vector


def test_what_others_stored_without_the_codec_is_a_typed_error_at_the_reader():
    """The state is as it is; without the codec it can be read and written right."""
    kernel = Kernel("k")
    kernel.document("d", LWWMap)["k"] = "no number"
    coded = kernel.document("d", LWWMap.of(Decimal))
    for read in (lambda: coded["k"], lambda: coded.value, lambda: coded.pop("k")):
        with pytest.raises(CodecError, match="no number") as refused:
            read()
        assert refused.value.codec == "Decimal"
        assert "without its codec" in refused.value.hint
    kernel.document("d", LWWMap)["k"] = "1.5"
    assert coded["k"] == Decimal("1.5")
    assert list(kernel.documents()) == [("d", LWWMap)]


def test_children_of_an_ormap_are_converted():
    """By (name, coded type); `value` has no codec to ask, and shows what is stored."""
    m = ORMap("a")
    price = LWWRegister.of(Decimal)
    m["price", price].set(Decimal("1.5"))
    m["ids", ORSet.of(UUID)] |= {ID}
    assert m["price", price].value == Decimal("1.5")
    assert ("price", price) in m
    assert m.value == {"price": "1.5", "ids": {str(ID)}}
    m.remove("price", price)
    assert ("price", LWWRegister) not in m


def test_a_value_is_imported_through_the_codec():
    """What a coded view shows can be written into another one."""
    one, two = LWWMap.of(Decimal, keys=UUID)("a"), LWWMap.of(Decimal, keys=UUID)("b")
    one[ID] = Decimal(3)
    two.import_value(one.value)
    assert two == one
    values = MVRegister.of(Decimal)("v")
    values.import_value((Decimal(1), Decimal(2)))
    assert values.value == (Decimal(1), Decimal(2))


def test_old_and_new_versions_of_a_dataclass_read_each_other():
    """Unknown fields are left out on reading, missing ones take their defaults or are an error."""

    @dataclass
    class New:
        name: str
        size: int = 3

    @dataclass
    class Old:
        name: str

    kernel = Kernel("k")
    new, old = (kernel.document("d", LWWRegister.of(Codec.of(each))) for each in (New, Old))
    old.set(Old("x"))
    assert new.value == New("x", 3)
    new.set(New("y", 4))
    assert old.value == Old("y")
    kernel.document("d", LWWRegister).set({"size": 1})
    with pytest.raises(CodecError, match="name"):
        _ = new.value


def test_a_subclass_is_not_taken_for_its_base():
    """It would not come back as what it was: datetime for date, bool for int."""
    for kind, wrong in ((date, datetime.now(UTC)), (int, True), (Decimal, 1.5), (UUID, str(ID))):
        with pytest.raises(CodecError, match="wanted"):
            LWWRegister.of(kind)("a").set(wrong)


def test_types_without_a_codec_are_refused_by_name():
    """When the type is asked for, and not at the first write."""

    @dataclass
    class Holds:
        what: object
        how: complex

    for kind in (complex, Odd, Holds, int | str, list[complex], 5, "Decimal"):
        with pytest.raises(InvalidValueError, match="Codec"):
            LWWRegister.of(kind)
    assert repr(LWWMap.of(Decimal, keys=UUID)) == "LWWMap.of(Codec(Decimal), Codec(UUID))"
    assert Codec.of(ODD) is ODD


def test_parameters_for_type_checkers_change_nothing_at_run_time():
    """`LWWMap[str, int]` names the same document as `LWWMap`."""
    kernel = Kernel("k")
    kernel.document("d", LWWMap[str, int])["k"] = 1
    assert kernel.document("d", LWWMap) == {"k": 1}
    assert list(kernel.documents()) == [("d", LWWMap)]
    m = ORMap("m")
    m["s", ORSet[str]] |= {"x"}
    assert ("s", ORSet[str]) in m
    assert m["s", ORSet] == {"x"}
    m.remove("s", ORSet[str])
    assert not m
    register = LWWRegister[int]("a")
    register.set(1)
    assert register.value == 1
