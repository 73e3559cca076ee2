"""Agents: language models as nodes. The only folder that imports openai."""

from eventflow.agents.agent import Agent

__all__ = ["Agent"]
