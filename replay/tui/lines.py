"""States, events and differences as lines: what stands there, at which depth, and whether it is new, other or gone.

Whatever comes from a log leaves here as text in which nothing commands a terminal. Draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import chain, islice
from typing import Any, Literal

from eventflow.cli.shell import plain_json, time_text, visible
from eventflow.event import Recorded
from eventflow.plain import Rope
from eventflow.state import State, open_waits
from replay.diff import Difference, Divergence
from replay.patch import by_field
from replay.path import MISSING, Path, alike, path_text, settled
from replay.tui.reading import Instant

MAX_LINES = 2_000  # of one sheet: sixty screens; more is read with `replay show -o json`
MAX_TEXT = 4_000  # characters of one value: two screens
AROUND = 2  # items of a list shown on each side of those that changed
WHOLE = 12  # items of a list, or keys of a dict, that are shown all, changed or not
SHORT = 60  # characters of two values that still stand in one line, the old and the new
NARROW_TAB = "    "

Mark = Literal["", "+", "~", "-"]
_NESTED = (dict, list, Rope)


@dataclass(frozen=True, slots=True)
class Said:
    """One line: its mark (new, other, gone), depth, name and text; `heading` and `aside` are drawn as such."""

    mark: Mark
    depth: int
    name: str
    text: str
    tone: Literal["", "heading", "aside", "bad"] = ""


def state_lines(seen: Instant) -> list[Said]:
    """A state, with what its event changed in it marked."""
    new, old = seen.state.data, seen.before.data if seen.before is not None else seen.state.data
    stands = [Said("", 0, "", "stands", "heading"), *_standing(seen.state, seen.before)]
    stands.append(Said("", 0, "", "state", "heading"))
    if not new and not old:
        stands.append(Said("", 0, "", "nothing", "aside"))
    return _cut(chain(stands, _of_dict(old, new, 0, sorted(new))))


def event_lines(seen: Instant) -> list[Said]:
    """An event with everything it says."""
    recorded = seen.recorded
    event: Any = recorded.event
    told: dict[str, Any] = {one.name: _plain(getattr(event, one.name)) for one in fields(event)}
    place = [Said("", 0, "", "recorded", "heading"), *_recorded(recorded)]
    return _cut(chain([Said("", 0, "", type(event).__name__, "heading")], _of_dict(told, told, 0), place))


def _recorded(recorded: Recorded) -> Iterator[Said]:
    told = {
        "version": str(recorded.version), "position": f"{recorded.position} in the store", "time": time_text(recorded.time),
        "epoch": str(recorded.epoch), "digest": recorded.digest.hex(), "before": recorded.before.hex(),
    }  # fmt: skip
    if recorded.vouch is not None:
        told["vouches"] = f"for the snapshot at version {recorded.vouch.version}"
    yield from (Said("", 0, name, text) for name, text in told.items())


def difference_lines(found: Difference) -> list[Said]:
    """Two addresses compared: where their histories part, where they stand, what differs in their states."""
    return _cut(_compared(found))


def _compared(found: Difference) -> Iterator[Said]:
    yield Said("", 0, "", visible(f"{found.one} → {found.other}"), "heading")
    if found.same:
        yield Said("", 0, "", "the same", "aside")
    for name, (one, other) in found.standing.items():
        yield from _changed(name, one, other, 0)
    for edit in by_field(found.patch):
        yield from _edited(edit.path, edit.was, edit.now)
    if found.divergences:
        said = f"share their history to version {found.shared}, then part" if found.shared else "share no history"
        yield Said("", 0, "", said, "heading")
        for part in found.divergences:
            yield from _parting(part)


def error_lines(error: Exception) -> list[Said]:
    """What can't be shown, and why."""
    return [Said("", 0, "", visible(str(error)), "bad")]


def _cut(lines: Iterable[Said]) -> list[Said]:
    every = list(islice(lines, MAX_LINES + 1))
    if len(every) <= MAX_LINES:
        return every
    return [*every[:MAX_LINES], Said("", 0, "", "and more: `replay show -o json` has all", "aside")]


# --- where a run stands --------------------------------------------------------------------------------------------


def _standing(state: State, before: State | None) -> Iterator[Said]:
    now, old = _told(state), {} if before is None else _told(before)
    for name, text in now.items():
        was = old.get(name)
        if before is None or was == text:
            yield Said("", 0, name, text)
        elif was is None:
            yield Said("+", 0, name, text)
        else:
            yield Said("~", 0, name, f"{was} → {text}")
    for name, text in old.items():
        if name not in now and not name.startswith("call "):  # calls are left with their node
            yield Said("-", 0, name, text)


def _told(state: State) -> dict[str, str]:
    """Where a run stands, in words."""
    waits = f", waiting for {state.waiting_for}" if state.waiting_for else ""
    told = {"status": f"{state.status}{waits}", "node": state.node}
    if state.attempt > 1:
        told["attempt"] = str(state.attempt)
    if state.error is not None:
        told["error"] = f"{state.error.type}: {state.error.message}"
    for identity, entry in state.effects.items():
        told[f"call {identity}"] = f"{entry['status']}, attempt {entry['attempt']}"
    for branch, wait in open_waits(state):
        until = f", until {time_text(wait['until'])}" if wait["until"] else ""
        told[f"wait {wait['id']}"] = f"{f'branch {branch}: ' if branch else ''}{wait['kind']} {wait['name']}{until}"
    if state.signals:
        told["signals"] = ", ".join(str(one["name"]) for one in state.signals)
    if state.usage:
        told["used"] = ", ".join(f"{name} {amount}" for name, amount in state.usage.items())
    if state.undo:
        told["to undo"] = ", ".join(f"{one['name']}#{one['key']}" for one in state.undo)
    return {visible(name): visible(text) for name, text in told.items()}


# --- values, the new beside the old --------------------------------------------------------------------------------


def _of_dict(
    old: Mapping[str, Any], new: Mapping[str, Any], depth: int, ordered: list[str] | None = None
) -> Iterator[Said]:
    """A dict's keys in this order or their own, then those that have gone; many that are as before are told as a number."""
    names = list(new) if ordered is None else ordered
    changed = [index for index, name in enumerate(names) if name not in old or not alike(old[name], new[name])]
    for index in _shown(len(names), changed):
        if isinstance(index, str):
            yield Said("", depth, "", f"… {index} keys as before", "aside")
            continue
        name = names[index]
        yield from _pair(visible(name), old.get(name, MISSING), new[name], depth)
    for name in old:
        if name not in new:
            yield from _pair(visible(name), old[name], MISSING, depth)


def _of_list(old: list[Any], new: list[Any], depth: int) -> Iterator[Said]:
    """A list's items: its common beginning and end are as before, what lies between is compared one by one."""
    start, end = 0, 0
    shorter = min(len(old), len(new))
    while start < shorter and alike(old[start], new[start]):
        start += 1
    while end < shorter - start and alike(old[-1 - end], new[-1 - end]):
        end += 1
    moved = len(old) - len(new)
    changed = list(range(start, len(new) - end))
    gone = range(max(start, len(new) - end), len(old) - end)
    for index in _shown(len(new), changed or ([start] if gone else [])):
        if isinstance(index, str):
            yield Said("", depth, "", f"… {index} items as before", "aside")
            continue
        if index == len(new) - end:
            yield from _gone(old, gone, depth)
        tail = index >= len(new) - end
        there = index + moved if tail else index
        was = old[there] if tail or there < len(old) - end else MISSING
        yield from _pair(f"[{index}]", was, new[index], depth)
    if not end:
        yield from _gone(old, gone, depth)


def _gone(old: list[Any], places: range, depth: int) -> Iterator[Said]:
    for place in islice(places, WHOLE):
        yield from _pair(f"[{place}]", old[place], MISSING, depth)
    if len(places) > WHOLE:
        yield Said("-", depth, "", f"… {len(places) - WHOLE} more items have gone", "aside")


def _shown(count: int, changed: list[int]) -> Iterator[int | str]:
    """Places to show: all of a few, else those that changed and some around them; a number in words where some are left out."""
    if count <= WHOLE:
        yield from range(count)
        return
    near = {place for one in changed for place in range(one - AROUND, one + AROUND + 1) if 0 <= place < count}
    near |= set(range(AROUND)) | set(range(count - AROUND, count))
    last = -1
    for place in sorted(near):
        if place > last + 1:
            yield f"{place - last - 1:,}"
        yield place
        last = place


def _pair(name: str, old: Any, new: Any, depth: int) -> Iterator[Said]:
    """One name with its value, beside the value before."""
    if new is MISSING:
        yield from _value("-", name, old, depth)
    elif old is MISSING:
        yield from _value("+", name, new, depth)
    elif isinstance(old, dict) and isinstance(new, dict) and (old or new):
        yield Said("", depth, name, "")
        yield from _of_dict(old, new, depth + 1)
    elif isinstance(old, list | Rope) and isinstance(new, list | Rope) and (len(old) or len(new)):
        yield Said("", depth, name, "")
        yield from _of_list(settled(old), settled(new), depth + 1)
    elif alike(old, new):
        yield from _value("", name, new, depth)
    else:
        yield from _changed(name, old, new, depth)


def _changed(name: str, old: Any, new: Any, depth: int) -> Iterator[Said]:
    """A value that is another: both in a line where they are short."""
    if isinstance(old, _NESTED) or isinstance(new, _NESTED):
        yield from _value("-", name, old, depth)
        yield from _value("+", name, new, depth)
        return
    before, after = _text(old), _text(new)
    if len(before) + len(after) <= SHORT and "\n" not in before + after:
        yield Said("~", depth, name, f"{before} → {after}")
        return
    yield Said("-", depth, name, before)
    yield Said("+", depth, name, after)


def _value(mark: Mark, name: str, value: Any, depth: int) -> Iterator[Said]:
    """A value alone, all of it marked alike."""
    if isinstance(value, dict) and value:
        yield Said(mark, depth, name, "")
        for key, item in value.items():
            yield from _value(mark, visible(key), item, depth + 1)
    elif isinstance(value, list | Rope) and len(value):
        yield Said(mark, depth, name, "")
        for index, item in enumerate(settled(value)):
            yield from _value(mark, f"[{index}]", item, depth + 1)
    else:
        yield Said(mark, depth, name, _text(value))


def _text(value: Any) -> str:
    """A value as text: JSON, but for a text of several lines, which stands as it is."""
    if value is MISSING:
        return "-"
    size = len(value) if isinstance(value, str | bytes) else 0
    kept = value[:MAX_TEXT] if size > MAX_TEXT else settled(value)
    text = kept if isinstance(kept, str) and "\n" in kept else json.dumps(plain_json(kept), ensure_ascii=False)
    shown = visible(text, lines=True).replace("\t", NARROW_TAB)
    return shown if size <= MAX_TEXT else f"{shown}… ({size:,} in all)"


def _plain(value: Any) -> Any:
    """A field of an event as plain data: operations as `op path`, failures as dicts, digests as hex."""
    if isinstance(value, bytes) and len(value) in (16, 32):
        return value.hex()
    if isinstance(value, tuple):  # a change
        return {f"{number}. {op.op} {path_text(op.path)}": op.value for number, op in enumerate(value, 1)}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return value


# --- two points compared -------------------------------------------------------------------------------------------


def _edited(path: Path, was: Any, now: Any) -> Iterator[Said]:
    name = visible(path_text(path))
    if was is MISSING or now is MISSING:
        yield from _value("+" if was is MISSING else "-", name, now if was is MISSING else was, 0)
    else:
        yield from _changed(name, was, now, 0)


def _parting(one: Divergence) -> Iterator[Said]:
    versions = " / ".join(str(version) if version else "-" for version in one.versions)
    yield Said("", 0, "", visible(f"{one.kind} {one.what} in {one.node}, versions {versions}"), "aside")
    yield Said("-", 1, "", _text(one.one))
    yield Said("+", 1, "", _text(one.other))
