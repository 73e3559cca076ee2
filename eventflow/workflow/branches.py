"""Nodes that split: into branches that are declared, or into one for each item of a list.

Branches run side by side, each with attempts, calls and waits of its own, and see the state as it was at the split.
What each brings is recorded when it ends; the join puts it into the state in the order in which the branches were
declared (or of the items), however they came in. How code is run is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventflow.change import Change, Op, Reducer, apply, resolve
from eventflow.errors import BranchesDisagree, DefinitionError, InvalidState
from eventflow.plain import FrozenDict, FrozenList
from eventflow.workflow.parts import Body, Pause

MAX_BRANCHES = 10_000  # of one node; what is larger is split into several runs, so that a state stays readable
AT_ONCE = 64  # branches of one node that run at a time, unless it says otherwise: as many as there are threads
_DRAWN = 6  # names of branches in a diagram: what fits on a line
BranchBody = Callable[..., Any] | Body | Pause


@dataclass(frozen=True, slots=True)
class Terms:
    """How many branches may fail: `tolerate` of them, in number or in per cent; or `at_least` that many must succeed.

    With `at_least` the node goes on as soon as so many have succeeded, and the others are cut off. Where there are fewer
    branches than that, all must.
    """

    tolerate: int | str = 0
    at_least: int | None = None

    def __post_init__(self) -> None:
        if self.at_least is not None and self.at_least < 1:
            raise DefinitionError("at_least counts branches: give 1 or more")
        if self.allowed(100) and self.at_least is not None:
            raise DefinitionError("tolerate= and at_least= say the same in two ways: give one of them")

    def allowed(self, count: int) -> int:
        """How many of so many branches may fail. Raises DefinitionError for what is neither a number nor per cent."""
        given = self.tolerate
        if isinstance(given, str):
            number = given.removesuffix("%").strip()
            if not given.endswith("%") or not number.isdecimal() or int(number) > 100:
                raise DefinitionError(f"tolerate={given!r} is neither a number of branches nor a share such as '10%'")
            return count * int(number) // 100
        if given < 0:
            raise DefinitionError("tolerate counts branches: give 0 or more")
        return given

    def verdict(self, count: int, finished: int, failed: int) -> str:
        """What so many ends mean: "join", "fail", or "" while it is open."""
        if self.at_least is not None:
            needed = min(self.at_least, count)
            if finished >= needed:
                return "join"
            return "fail" if count - failed < needed else ""
        if failed > self.allowed(count):
            return "fail"
        return "join" if finished + failed == count else ""


class Split:
    """What Parallel and Map have in common: the body of each branch, how many at a time, how many may fail."""

    kind = ""

    def __init__(self, bodies: Mapping[str, BranchBody], limit: int | None, terms: Terms) -> None:
        if limit is not None and limit < 1:
            raise DefinitionError("limit counts branches that run at a time: give 1 or more")
        for name in bodies:
            if not isinstance(name, str):
                raise DefinitionError(f"branch {name!r} needs a text as its name")
            if getattr(bodies[name], "kind", "") == "choice":
                raise DefinitionError("a Choice is no branch: only the whole node goes on to another")
        self.bodies, self.limit, self.terms = dict(bodies), limit, terms

    def names(self, count: int) -> list[str]:
        """The branches in the order of the join; `count` is that of the items."""
        raise NotImplementedError

    def items(self, view: Any) -> Sequence[Any] | None:
        """What the branches work on, None where each has a body of its own. Raises InvalidState."""
        raise NotImplementedError

    def body_name(self, branch: str) -> str:
        """Which of the bodies a branch has."""
        raise NotImplementedError

    def updates(self, results: Sequence[tuple[str, Any]], count: int) -> list[tuple[str, dict[str, Any]]]:
        """What the branches that finished bring to the state: pairs of branch and update."""
        raise NotImplementedError

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The state fields it reads, and those it writes, as far as they are declared."""
        raise NotImplementedError

    def said(self) -> str:
        """What it splits into, in a few words, for a diagram."""
        raise NotImplementedError


class Parallel(Split):
    """Branches by name, each with a body of its own: `Parallel({"web": search_web, "files": search_files})`.

    A body is whatever may be a node, and brings what a node returns; it sees the state as it was at the split. One
    field that two branches bring without a reducer is an error. `tolerate` and `at_least` say how many may fail, `limit`
    how many run at a time.
    """

    kind = "parallel"

    def __init__(
        self, branches: Mapping[str, BranchBody], *, tolerate: int | str = 0, at_least: int | None = None,
        limit: int | None = None,
    ) -> None:  # fmt: skip
        if "" in branches:
            raise DefinitionError("a branch of a Parallel needs a name")
        if not branches or not all(branches):
            raise DefinitionError("Parallel needs at least one branch, and each needs a name")
        if at_least is not None and at_least > len(branches):
            raise DefinitionError(f"at_least={at_least} of {len(branches)} branches can never succeed")
        super().__init__(branches, limit, Terms(tolerate, at_least))

    def names(self, count: int) -> list[str]:  # noqa: ARG002 - as a Split has it
        """Those that were declared."""
        return list(self.bodies)

    def items(self, view: Any) -> None:  # noqa: ARG002 - as a Split has it
        """None: each has a body of its own."""
        return

    def body_name(self, branch: str) -> str:
        """Its own."""
        return branch

    def updates(self, results: Sequence[tuple[str, Any]], count: int) -> list[tuple[str, dict[str, Any]]]:  # noqa: ARG002
        """What each returned."""
        return [(name, dict(result)) for name, result in results if result]

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those of all its bodies that say so."""
        reads: list[str] = []
        writes: list[str] = []
        for body in self.bodies.values():
            declared = getattr(body, "fields", None)
            if declared is not None:
                more = declared()
                reads.extend(more[0])
                writes.extend(more[1])
        return tuple(reads), tuple(writes)

    def said(self) -> str:
        """The first of its branches, by name."""
        names = list(self.bodies)
        more = f" and {len(names) - _DRAWN} more" if len(names) > _DRAWN else ""
        return f"branches {', '.join(names[:_DRAWN])}{more}"


class Map(Split):
    """One branch for each item of a list: `Map(summarise, over="pages", writes="summaries")`.

    `over` is a field, or a function of the state that gives the list; the body takes the item (or the item and its run)
    and returns a value. `writes` gets the list of values in the items' order, with None in place of what failed and was
    tolerated; without it a body returns changes, as a node does. `limit` is how many run at a time.
    """

    kind = "map"

    def __init__(
        self, body: Callable[..., Any] | Body, *, over: str | Callable[[Any], Sequence[Any]], writes: str | None = None,
        tolerate: int | str = 0, at_least: int | None = None, limit: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__({"": body}, limit, Terms(tolerate, at_least))
        self.over, self.writes = over, writes

    def names(self, count: int) -> list[str]:
        """The items' places."""
        return [str(place) for place in range(count)]

    def items(self, view: Any) -> Sequence[Any]:
        """The list, from the state. Raises InvalidState."""
        found = self.over(view) if callable(self.over) else _field(view, self.over)
        if not isinstance(found, list | tuple):
            name = "over" if callable(self.over) else self.over
            raise InvalidState(name, f"a map needs a list, got {type(found).__name__}")
        if len(found) > MAX_BRANCHES:
            raise InvalidState("over", f"has {len(found):,} items; a map takes {MAX_BRANCHES:,}, start runs for more")
        return found

    def body_name(self, branch: str) -> str:  # noqa: ARG002 - as a Split has it
        """The one there is."""
        return ""

    def updates(self, results: Sequence[tuple[str, Any]], count: int) -> list[tuple[str, dict[str, Any]]]:
        """The list of values, or what each returned."""
        if self.writes is None:
            return [(name, dict(result)) for name, result in results if result]
        values: list[Any] = [None] * count
        for name, result in results:
            values[int(name)] = result
        return [("", {self.writes: values})]

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The list's field, and where the values go."""
        reads = () if callable(self.over) else (self.over,)
        return reads, () if self.writes is None else (self.writes,)

    def said(self) -> str:
        """What gives the items."""
        return "a branch for each item" + ("" if callable(self.over) else f" of {self.over}")


def _field(view: Any, name: str) -> Any:
    """A field of a state, be it a dict or an object; None where it is not there."""
    return view.get(name) if isinstance(view, dict) else getattr(view, name, None)


def joined(
    data: FrozenDict, updates: Sequence[tuple[str, Mapping[str, Any]]], reducers: Mapping[str, Reducer]
) -> tuple[Change, FrozenDict]:
    """One change out of what several branches bring, and the data after it. Raises BranchesDisagree."""
    brought: dict[str, str] = {}
    ops: list[Op] = []
    for branch, update in updates:
        for name in update:
            if name in brought and name not in reducers:
                raise BranchesDisagree(name, brought[name], branch)
            brought[name] = branch
        change = resolve(data, {key: _open(value) for key, value in update.items()}, reducers)
        data = apply(data, change)
        ops.extend(change)
    return tuple(ops), data


def _open(value: Any) -> Any:
    """A recorded value as a reducer of the user's own may take it."""
    return list(value) if type(value) is FrozenList else value
