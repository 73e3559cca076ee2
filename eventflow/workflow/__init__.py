"""Workflows: definition, decision, check, diagram. One folder, the only one that imports transitions."""

from eventflow.workflow.check import Problem
from eventflow.workflow.definition import Decision, Workflow, difference, set_runner
from eventflow.workflow.parts import Body, Edge, Go, Node, Opening, Pause
from eventflow.workflow.schema import Schema, parameters
from eventflow.workflow.waits import NO_DEFAULT, Human, Sleep, Wait, answer_name

__all__ = [
    "NO_DEFAULT",
    "Body",
    "Decision",
    "Edge",
    "Go",
    "Human",
    "Node",
    "Opening",
    "Pause",
    "Problem",
    "Schema",
    "Sleep",
    "Wait",
    "Workflow",
    "answer_name",
    "difference",
    "parameters",
    "set_runner",
]
