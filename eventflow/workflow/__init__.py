"""Workflows: definition, decision, check, diagram. One folder, the only one that imports transitions."""

from eventflow.workflow.check import Problem
from eventflow.workflow.definition import Decision, Workflow, difference, set_runner
from eventflow.workflow.parts import Body, Edge, Go, Node
from eventflow.workflow.schema import Schema, parameters

__all__ = [
    "Body",
    "Decision",
    "Edge",
    "Go",
    "Node",
    "Problem",
    "Schema",
    "Workflow",
    "difference",
    "parameters",
    "set_runner",
]
