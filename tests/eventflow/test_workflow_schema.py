"""The declared type of a state: in, out, reducers, and what does not fit."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NotRequired, Required, TypedDict
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import Engine, Workflow, add, extend, merge
from eventflow.change import Op, apply
from eventflow.errors import DefinitionError, InvalidState, NotPlainData, RunFailed
from eventflow.plain import FrozenDict, freeze
from eventflow.recovery import recover
from eventflow.workflow import Schema, parameters

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ID = UUID("01890000-0000-7000-8000-000000000000")


class Notes(TypedDict, total=False):
    """Plain fields, and one of each reducer."""

    topic: Required[str]
    notes: Annotated[list[str], extend]
    score: NotRequired[Annotated[float, add]]
    seen: Annotated[dict[str, int], merge]
    best: Annotated[int, max]
    mood: Literal["calm", "wild"]


class Colour(enum.Enum):
    """Not plain data."""

    RED = "red"


class Part(pydantic.BaseModel):
    """A model inside a model."""

    at: datetime
    raw: bytes = b""


class Order(pydantic.BaseModel):
    """Everything that JSON lacks."""

    id: UUID
    placed: datetime
    day: date = date(2026, 11, 24)
    price: Decimal = Decimal("9.90")
    colour: Colour = Colour.RED
    tags: set[str] = set()
    path: Path = Path("/x")
    wait: timedelta = timedelta(seconds=90)
    raw: bytes = b"\xff\x00"
    ratio: float = float("inf")
    parts: Annotated[list[Part], extend] = []
    by_number: dict[int, Decimal] = {}
    count: int = pydantic.Field(default=0, ge=0)


@dataclass
class Tally:
    """A dataclass with a default, a reducer and a date."""

    name: str
    when: date = date(2026, 1, 1)
    items: Annotated[list[str], extend] = field(default_factory=list)
    total: Annotated[int, add] = 0


def after(schema: Schema, data, returned) -> FrozenDict:
    """The plain data once a node has returned something."""
    return apply(data, schema.change(returned, data))


# --- plain dicts ---------------------------------------------------------------------------------------------------


def test_without_a_declared_type_any_dict_will_do():
    """Input, update and view are plain dicts."""
    schema = Schema(None)
    data = schema.initial({"x": [1, {"y": None}]})
    assert schema.view(data) is data
    assert after(schema, data, {"z": b"1"}) == {"x": [1, {"y": None}], "z": b"1"}
    assert after(schema, data, None) is data


@pytest.mark.parametrize("wrong", [[1], "text", 3])
def test_an_input_or_update_that_is_no_dict_is_refused(wrong):
    """The sentence says what a node returns."""
    schema = Schema(None)
    with pytest.raises(InvalidState, match="must be a dict"):
        schema.initial(wrong)
    with pytest.raises(InvalidState, match="returns a dict of changes or None"):
        schema.change(wrong, freeze({}))


def test_what_is_not_plain_is_named_by_its_path():
    """The path leads to the value, in an input as in an update."""
    schema = Schema(dict)
    with pytest.raises(NotPlainData, match=r"a\.b\[1\]\.c"):
        schema.initial({"a": {"b": [1, {"c": object()}]}})
    with pytest.raises(NotPlainData, match=r"a\.b\[1\]"):
        schema.change({"a": {"b": [1, {1, 2}]}}, freeze({}))


# --- TypedDict -----------------------------------------------------------------------------------------------------


def test_a_typed_dict_validates_field_by_field():
    """Values are coerced as pydantic does; what does not fit is named with its path."""
    schema = Schema(Notes)
    data = schema.initial({"topic": "tides", "notes": ("a",), "score": "1.5"})
    assert data == {"topic": "tides", "notes": ["a"], "score": 1.5}
    for wrong, said in (
        ({"topic": 3}, "state field topic"),
        ({"notes": ["a", 1]}, "state field notes.1"),
        ({"mood": "sad"}, "state field mood"),
        ({"other": 1}, "state field other: is not declared"),
    ):
        with pytest.raises(InvalidState) as caught:
            schema.change(wrong, data)
        assert said in str(caught.value)


def test_reducers_make_small_changes():
    """extend, add and merge are operations of their own; an own reducer gives a value."""
    schema = Schema(Notes)
    data = schema.initial({"topic": "t", "notes": ["a"], "score": 1.0, "seen": {"x": 1}, "best": 3})
    change = schema.change({"notes": ["b"], "score": 0.5, "seen": {"y": 2}, "best": 2}, data)
    assert list(change) == [Op("extend", ("notes",), ["b"]), Op("add", ("score",), 0.5), Op("set", ("seen", "y"), 2)]
    assert after(schema, data, {"best": 7}) == {**data, "best": 7}


def test_reducers_start_from_nothing():
    """A field that is not there yet is what the update says."""
    schema = Schema(Notes)
    data = schema.initial({"topic": "t"})
    assert after(schema, data, {"notes": ["b"], "score": 2.0, "seen": {"y": 2}}) == {
        "topic": "t", "notes": ["b"], "score": 2.0, "seen": {"y": 2},
    }  # fmt: skip


def test_a_whole_list_that_only_grew_is_an_extension():
    """A node may return the list it was given with more at its end."""
    schema = Schema(None)
    data = schema.initial({"log": ["a", "b"]})
    assert schema.change({"log": [*schema.view(data)["log"], "c"]}, data) == (Op("extend", ("log",), ["c"]),)


def test_a_value_handed_back_as_it_is_changes_nothing():
    """What is the same object is not even looked at."""
    schema = Schema(Notes)
    data = schema.initial({"topic": "t", "mood": "calm"})
    assert schema.change(dict(data), data) == ()


# --- models and dataclasses ----------------------------------------------------------------------------------------


def test_a_model_goes_through_plain_data_and_comes_back_equal():
    """Dates, ids, sets, enums, bytes, infinities: what the node gets is what was put in."""
    schema = Schema(Order)
    order = Order(
        id=ID, placed=NOON, tags={"b"}, parts=[Part(at=NOON, raw=b"\xfe")], by_number={3: Decimal("1.10")}
    )  # fmt: skip
    data = schema.initial(order)
    assert schema.view(data) == order
    assert data["placed"] == "2026-11-24T12:00:00Z"
    assert data["raw"] == b"\xff\x00"
    assert data["parts"] == [{"at": "2026-11-24T12:00:00Z", "raw": b"\xfe"}]
    assert data["by_number"] == {"3": "1.10"}


def test_an_update_of_a_model_is_by_field_and_typed():
    """New values may be of the declared type; they are dumped at once."""
    schema = Schema(Order)
    data = schema.initial({"id": str(ID), "placed": NOON})
    moved = after(schema, data, {"placed": datetime(2027, 1, 1, tzinfo=UTC), "parts": [Part(at=NOON)]})
    view = schema.view(moved)
    assert view.placed.year == 2027
    assert view.parts == [Part(at=NOON)]
    assert after(schema, moved, {"parts": [Part(at=NOON)]})["parts"] == [*moved["parts"], *moved["parts"]]
    with pytest.raises(InvalidState, match="state field count"):
        schema.change({"count": -1}, data)


def test_a_whole_state_replaces_the_one_that_is_held():
    """An object of the declared type is the new state: its lists are not added to themselves."""
    schema = Schema(Tally)
    data = schema.initial(Tally("n", items=["a"], total=3))
    tally = schema.view(data)
    assert schema.change(tally, data) == ()
    moved = schema.change(replace(tally, items=[*tally.items, "b"], total=4), data)
    assert list(moved) == [Op("extend", ("items",), ["b"]), Op("set", ("total",), 4)]


def test_a_dataclass_is_made_from_a_dict_or_an_instance():
    """Defaults are filled in, and a wrong type is named."""
    schema = Schema(Tally)
    assert schema.view(schema.initial({"name": "n"})) == Tally("n")
    assert schema.initial({"name": "n"}) == schema.initial(Tally("n"))
    with pytest.raises(InvalidState, match=r"^input field name: .*it must be str, correct it in the input"):
        schema.initial({"name": 3})
    assert after(schema, schema.initial(Tally("n")), {"items": ["x"], "total": 2})["total"] == 2


@dataclass
class Trip:
    """What an input is checked against, here and below."""

    city: str
    days: int = 1
    stops: list[str] = field(default_factory=list)


class Journey(TypedDict, total=False):
    """The same, declared otherwise."""

    city: str
    days: int
    stops: list[str]


class Voyage(pydantic.BaseModel):
    """The same, with something inside."""

    city: str
    days: int = 1
    part: Part | None = None


class Strict(pydantic.BaseModel, extra="forbid"):
    """One that says what is to become of names it does not have."""

    city: str


@pytest.mark.parametrize(
    ("declared", "given", "path", "said"),
    [
        (Trip, {"days": 2}, "city", "is missing, it must be str; add it to the input, which has 'days'"),
        (Trip, {}, "city", "is missing, it must be str; add it to the input, which has no field"),
        (Trip, {"citty": "Oslo"}, "citty", "is not declared, the state has: city (str), days (int), stops (list[str]); did you mean 'city'?"),
        (Trip, {"city": "Oslo", "stps": []}, "stps", "did you mean 'stops'?"),
        (Trip, {"city": "Oslo", "zzz": 1}, "zzz", "leave it out, or declare it in the workflow's state"),
        (Trip, {"city": "Oslo", "days": "many"}, "days", "got 'many'; it must be int, correct it in the input"),
        (Trip, {"city": "Oslo", "stops": ["a", 2]}, "stops.1", "got 2; stops must be list[str], correct it in the input"),
        (Trip, [1], "", "must be a dict (in JSON an object) of the fields city (str), days (int), stops (list[str]), got list"),
        (Journey, {"dys": 1}, "dys", "did you mean 'days'?"),
        (Journey, {"days": "many"}, "days", "it must be int"),
        (Voyage, {"citty": "Oslo"}, "city", "the input has 'citty', which is not declared: rename that"),
        (Voyage, {"city": "Oslo", "part": {}}, "part.at", "is missing, part must be "),
        (Voyage, "Oslo", "", "the input does not fit: "),
        (Strict, {"city": "Oslo", "days": 1}, "days", "is not declared, the state has: city (str); leave it out"),
        (None, "Oslo", "", "must be a dict (in JSON an object), got str"),
    ],
)  # fmt: skip
def test_an_input_that_does_not_fit_says_which_field_what_it_must_be_and_what_to_do(declared, given, path, said):
    """Missing, misspelt, too much, of another type, inside of a field, no dict at all; in each way to declare a state."""
    with pytest.raises(InvalidState) as told:
        Schema(declared).initial(given)
    assert told.value.path == path
    assert said in str(told.value)
    assert str(told.value).startswith(f"input field {path}: " if path else "the input ")


def test_what_a_model_does_with_other_names_is_its_own_business():
    """It ignores them as pydantic does, or takes them by an alias."""

    class Aliased(pydantic.BaseModel):
        city: str = pydantic.Field(alias="cityName")

    assert Schema(Voyage).initial({"city": "Oslo", "zzz": 1}) == {"city": "Oslo", "days": 1, "part": None}
    assert Schema(Aliased).initial({"cityName": "Oslo"}) == {"city": "Oslo"}


def test_a_larger_state_may_be_the_input_of_a_smaller_one_where_it_is_said():
    """A part that gets the whole state of its caller takes what it declares."""
    assert Schema(Trip).initial({"city": "Oslo", "zzz": 1}, spare=True) == {"city": "Oslo", "days": 1, "stops": []}


def test_an_own_reducer_works_on_the_declared_type():
    """It is given sets, not the lists that they are stored as, and its result is dumped."""

    def union(old, new):
        return new if old is None else old | new

    Marks = TypedDict("Marks", {"marks": Annotated[set[int], union]})  # noqa: UP013 - the reducer is local
    schema = Schema(Marks)
    data = schema.initial({"marks": {1}})
    assert data == {"marks": [1]}
    moved = after(schema, data, {"marks": {2}})
    assert schema.view(moved) == {"marks": {1, 2}}
    with pytest.raises(InvalidState, match="state field marks"):
        schema.change({"marks": {"many"}}, data)


@pytest.mark.parametrize("held", [{1: "a", -2: "b"}, {1.5: NOON}, {True: [{2: 3}]}, {ID: 1}])
def test_keys_that_are_no_text_are_kept_as_text_and_come_back(held):
    """As they are declared, whatever the values are; `dict[int, str]` holds nothing else that is to be converted."""
    kinds = {"1": dict[int, str], "1.5": dict[float, datetime], "True": dict[bool, list[dict[int, int]]]}
    Keyed = TypedDict("Keyed", {"held": kinds.get(str(next(iter(held))), dict[UUID, int])})  # noqa: UP013 - local on purpose
    schema = Schema(Keyed)
    data = after(schema, schema.initial({}), {"held": held})
    assert all(type(key) is str for key in data["held"])
    assert schema.view(data) == {"held": held}


@pytest.mark.parametrize("key", [b"ab", None, (1, 2)])
def test_a_key_whose_text_could_not_be_read_back_is_refused(key):
    """Else it would come back as another one."""
    Keyed = TypedDict("Keyed", {"held": dict[bytes | tuple[int, int] | None, datetime]})  # noqa: UP013 - local on purpose
    with pytest.raises(NotPlainData, match="which is not text"):
        Schema(Keyed).initial({"held": {key: NOON}})


def test_a_typed_dict_of_converted_fields_is_viewed_in_its_types():
    """Only the fields that need it are converted."""
    Mixed = TypedDict("Mixed", {"at": datetime, "n": int})  # noqa: UP013 - local on purpose
    schema = Schema(Mixed)
    data = schema.initial({"at": NOON, "n": 1})
    assert schema.view(data) == {"at": NOON, "n": 1}
    assert schema.view(schema.initial({"n": 1})) == {"n": 1}


def test_a_change_by_hand_sets_fields():
    """A fork's change passes no reducer, but must fit the type."""
    schema = Schema(Notes)
    data = schema.initial({"topic": "t", "notes": ["a"], "best": 9})
    assert apply(data, schema.edit({"notes": ["z"], "best": 1}, data)) == {"topic": "t", "notes": ["z"], "best": 1}
    with pytest.raises(InvalidState):
        schema.edit({"topic": 1}, data)


# --- definitions that can't be -------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [list, int, "Notes", 3])
def test_a_state_of_another_kind_is_refused(declared):
    """A state is a TypedDict, a dataclass, a model or a dict."""
    with pytest.raises(DefinitionError, match="TypedDict, a dataclass, a pydantic model or a plain dict"):
        Schema(declared)


def test_types_that_can_not_be_looked_up_are_a_definition_error():
    """A name that only a function knows can't be resolved, and the sentence says what to do."""

    class Hidden:
        pass

    class Local(TypedDict):
        x: Hidden

    with pytest.raises(DefinitionError, match="module's top level"):
        Schema(Local)


def test_a_field_that_can_not_be_validated_is_a_definition_error():
    """An arbitrary class has no schema."""
    Odd = TypedDict("Odd", {"x": object.__class__.__subclasses__})  # noqa: UP013
    with pytest.raises(DefinitionError, match="state field 'x'"):
        Schema(Odd)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda s: s, 1),
        (lambda s, run: s, 2),
        (lambda s, run=None: s, 1),
        (lambda s, *, key=1: s, 1),
        (dict, 1),
    ],
)
def test_a_function_says_whether_it_takes_its_run(function, count):
    """Required positional arguments are counted."""
    assert parameters(function) == count


# --- through a run, and back from the log --------------------------------------------------------------------------


@pytest.mark.parametrize("start", [{"id": ID, "placed": NOON}, Order(id=ID, placed=NOON)])
def test_nodes_guards_results_and_forks_see_the_declared_type(start, tmp_path):
    """A typed run gives the same object live, from the log, and in a fork."""
    seen = []

    def node(order):
        seen.append(type(order))
        return {"placed": order.placed + timedelta(days=1), "parts": [Part(at=order.placed)]}

    flow = (
        Workflow("w", state=Order)
        .add_node("a", node)
        .add_node("b", lambda order: None)
        .add_edge("a", "b", when=lambda order: order.placed > NOON)
        .set_start("a")
    )

    async def story():
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, start, run_id="r")
            result = await run.result()
            assert result == Order(id=ID, placed=NOON + timedelta(days=1), parts=[Part(at=NOON)])
            assert run.data == result
            fork = await engine.fork("r@2", change={"placed": NOON})
            assert (await fork.result()).placed == NOON
            return recover(engine.log, engine.log.head("r"), snapshots=False).state.data

    data = asyncio.run(story())
    assert Schema(Order).view(data).placed == NOON + timedelta(days=1)
    assert seen == [Order]


def test_an_update_that_does_not_fit_fails_the_run_with_its_path():
    """The failure says which field, and what it got."""
    flow = Workflow("w", state=Notes).add_node("a", lambda s: {"notes": ["x", 3]}).set_start("a")
    with pytest.raises(RunFailed, match=r"InvalidState: state field notes\.1.*got 3"):
        flow.run_sync({"topic": "t"})


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), plain_values), st.dictionaries(st.sampled_from("abcd"), plain_values))
def test_a_change_leads_to_what_was_returned(before, update):
    """Whatever a node returns, the state after the change holds it."""
    schema = Schema(None)
    data = schema.initial(before)
    assert repr(after(schema, data, update)) == repr(freeze({**before, **update}))
