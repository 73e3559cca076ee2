"""Agents: language models as nodes, and the tools they call. The only folder that imports openai."""

from eventflow.agents.agent import Agent
from eventflow.agents.deltas import Delta, Deltas
from eventflow.agents.memory import Window
from eventflow.agents.tool import Tool

__all__ = ["Agent", "Delta", "Deltas", "Tool", "Window"]
