"""A plan as the columns that the writing function takes, in the order in which it names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from eventflow.log.heads import Entry, Head
from eventflow.log.lmdb.tables import FACET_TAG, FACET_WORKFLOW, entry_row, facet
from eventflow.log.postgres.planning import Plan, moves_more
from eventflow.log.postgres.rows import STATUS_NUMBER, WAIT_NUMBER, kinds_number, signed, text_bytes
from eventflow.log.postgres.wire import ByteColumn, NumberColumn
from eventflow.log.protocol import STORE_NAME

Column = ByteColumn | NumberColumn
# name of a column -> whether it holds numbers; the order is that of the function's parameters
COLUMNS: dict[str, bool] = {
    name: kind == "n"
    for kind, names in (
        ("b", "e_key"), ("n", "e_epoch e_version"), ("b", "e_data h_id h_key"), ("n", "h_was_version h_was_epoch"),
        ("b", "h_was_owner"), ("n", "h_version"), ("b", "h_digest"), ("n", "h_epoch"), ("b", "h_owner"),
        ("n", "h_status h_waiting h_updated"), ("b", "n_id n_key"), ("n", "n_incarnation n_version"),
        ("b", "n_digest"), ("n", "n_epoch"), ("b", "n_owner"), ("n", "n_status n_waiting n_updated"), ("b", "n_queue"), ("n", "n_priority"),
        ("b", "i_key i_id i_entry i_workflow i_parent"), ("n", "i_origin"), ("b", "t_tag t_key a_runs a_gone a_blobs b_digest b_stored"),
        ("b", "d_key"), ("n", "d_version"), ("b", "v_key"), ("n", "v_version v_by"), ("b", "k_key"),
        ("n", "k_message"), ("b", "m_key"), ("n", "m_version m_kinds m_time"), ("b", "m_label"), ("n", "m_size"),
        ("b", "m_digest s_key"), ("n", "s_version"), ("b", "s_root x_key"), ("n", "x_version x_snapshot"),
        ("b", "o_key"), ("n", "o_ordinal"), ("b", "o_data"),
    )
    for name in names.split()
}  # fmt: skip
_NOTHING: dict[str, Column] = {name: (NumberColumn if counts else ByteColumn)() for name, counts in COLUMNS.items()}


def columns(plan: Plan) -> dict[str, Column]:
    """All columns of a plan; those that have nothing to hold are empty."""
    found = dict(_NOTHING)
    if plan.events:
        found["e_key"], found["e_epoch"], found["e_version"], found["e_data"] = events(plan)
    changed, begun = _moved(plan)
    if changed:
        found.update(_changed(changed))
    if begun:
        found.update(_begun(begun, plan))
    for name, held in (
        ("a_runs", plan.there), ("a_gone", plan.gone), ("a_blobs", plan.pieces),
    ):  # fmt: skip
        if held:
            found[name] = ByteColumn(held)
    if plan.blobs:
        found["b_digest"], found["b_stored"] = ByteColumn(plan.blobs), ByteColumn(plan.blobs.values())
    found.update(_rest(plan))
    return found


def events(plan: Plan) -> tuple[ByteColumn, NumberColumn, NumberColumn, ByteColumn]:
    """The events of a plan that has some: run keys, epochs after the plan, versions, bytes."""
    names, keys, versions, data = zip(*plan.events, strict=True)
    heads = plan.heads
    epochs = NumberColumn([heads[name].epoch for name in names])
    return ByteColumn(keys), epochs, NumberColumn(versions), ByteColumn(data)


def _moved(plan: Plan) -> tuple[list[tuple[Head, Head]], list[Head]]:
    """The heads whose rows must be written: changed in more than version, digest and time, or new."""
    changed: list[tuple[Head, Head]] = []
    begun: list[Head] = []
    for name, head in plan.heads.items():
        was = plan.was[name]
        if was is None or not was.version:
            begun.append(head)
        elif moves_more(was, head):
            changed.append((was, head))
    return changed, begun


def _named(prefix: str, names: str, rows: Iterable[Sequence[Any]]) -> dict[str, Column]:
    """Rows turned into columns."""
    full = [prefix + name for name in names.split()]
    return {
        name: (NumberColumn if COLUMNS[name] else ByteColumn)(values)
        for name, values in zip(full, zip(*rows, strict=True), strict=True)
    }


def _changed(heads: list[tuple[Head, Head]]) -> dict[str, Column]:
    names = "id key was_version was_epoch was_owner version digest epoch owner status waiting updated"
    return _named("h_", names, [
        (text_bytes(was.run_id), was.run_key, was.version, was.epoch, was.owner, head.version, head.digest, head.epoch,
         head.owner, STATUS_NUMBER[head.status], WAIT_NUMBER[head.waiting_for], head.updated)
        for was, head in heads
    ])  # fmt: skip


def _begun(heads: list[Head], plan: Plan) -> dict[str, Column]:
    names = "id key incarnation version digest epoch owner status waiting updated queue priority"
    found = _named("n_", names, [
        (text_bytes(head.run_id), head.run_key, head.incarnation, head.version, head.digest, head.epoch, head.owner,
         STATUS_NUMBER[head.status], WAIT_NUMBER[head.waiting_for], head.updated,
         text_bytes(plan.firsts[head.run_id].entry.queue), plan.firsts[head.run_id].entry.priority)
        for head in heads
    ])  # fmt: skip
    listed = [(head, plan.firsts[head.run_id].entry) for head in heads if head.run_id != STORE_NAME]
    if listed:
        found.update(
            _named("i_", "key id entry workflow parent origin", [_info(head, entry) for head, entry in listed])
        )
    tags = [(facet(FACET_TAG, tag), head.run_key) for head, entry in listed for tag in dict.fromkeys(entry.tags)]
    if tags:
        found.update(_named("t_", "tag key", tags))
    return found


def _info(head: Head, entry: Entry) -> tuple[bytes, bytes, bytes, bytes, bytes | None, int]:
    parent = None if entry.parent_id is None else entry.parent_key
    row = entry_row(head.run_id, entry)
    return head.run_key, text_bytes(head.run_id), row, facet(FACET_WORKFLOW, entry.workflow), parent, entry.origin


def _rest(plan: Plan) -> dict[str, Column]:
    found: dict[str, Column] = {}
    tables: tuple[tuple[str, str, list[Sequence[Any]]], ...] = (
        ("d_", "key version", [*plan.bends]),
        ("v_", "key version by", [(*place, signed(by)) for place, by in plan.vouches.items()]),
        ("k_", "key message", [*plan.taken]),
        ("s_", "key version root", [(*place, root) for place, root in plan.snapshots.items()]),
        ("x_", "key version snapshot", [(*place, int(whole)) for place, whole in plan.drops.items()]),
        ("o_", "key ordinal data", [(key, number, data) for number, (key, data) in enumerate(plan.posts, 1)]),
    )
    for prefix, names, rows in tables:
        if rows:
            found.update(_named(prefix, names, rows))
    if plan.marks:
        names = "key version kinds time label size digest"
        found.update(_named("m_", names, [
            (*place, kinds_number(mark), mark.time, text_bytes(mark.label), mark.size, mark.digest)
            for place, mark in plan.marks.items()
        ]))  # fmt: skip
    return found
