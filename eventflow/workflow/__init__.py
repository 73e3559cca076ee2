"""Workflows: definition, decision, check, diagram. One folder, the only one that imports transitions."""

from eventflow.workflow.branches import AT_ONCE, Map, Parallel, Split, joined
from eventflow.workflow.check import Problem
from eventflow.workflow.children import Child, Choice, child_id, end_name
from eventflow.workflow.definition import Decision, Workflow, difference, set_runner
from eventflow.workflow.misfit import looked_for
from eventflow.workflow.parts import Body, Edge, Go, Node, Opening, Pause, Standing
from eventflow.workflow.schema import Schema, field_of, parameters, plainly
from eventflow.workflow.waits import ANSWER, MESSAGE, NO_DEFAULT, Human, Sleep, Wait, answer_name

__all__ = [
    "ANSWER",
    "AT_ONCE",
    "MESSAGE",
    "NO_DEFAULT",
    "Body",
    "Child",
    "Choice",
    "Decision",
    "Edge",
    "Go",
    "Human",
    "Map",
    "Node",
    "Opening",
    "Parallel",
    "Pause",
    "Problem",
    "Schema",
    "Sleep",
    "Split",
    "Standing",
    "Wait",
    "Workflow",
    "answer_name",
    "child_id",
    "difference",
    "end_name",
    "field_of",
    "joined",
    "looked_for",
    "parameters",
    "plainly",
    "set_runner",
]
