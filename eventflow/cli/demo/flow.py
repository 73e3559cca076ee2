"""The demos' workflow: a researcher, an analyzer and a writer, three agents over one real text."""

from __future__ import annotations

import os
from typing import Annotated, Any, TypedDict

from eventflow.agents import Agent
from eventflow.change import extend
from eventflow.checkpoint import CheckpointPolicy
from eventflow.workflow import Workflow

MODEL = "gpt-5-mini"
POLICY = CheckpointPolicy(after_node=True, every=4, keep=5)

TEXT = """\
The tide is the slow rise and fall of the sea, raised by the Moon and, to a lesser degree, by the Sun. The pull of the
Moon is not the same everywhere on the Earth: it is a little stronger on the side that faces the Moon and a little weaker
on the far side. The difference stretches the ocean along the line to the Moon, and the Earth turns under the stretched
water. Most coasts therefore see two high waters and two low waters in a lunar day, which lasts 24 hours and 50 minutes.

The Sun is 27 million times as heavy as the Moon, but about 390 times as far away, and what raises tides falls with the
cube of the distance. Its share is about 46 per cent of the Moon's. At new and full Moon both pull along one line, and
the range is largest: spring tide. At the quarters they work against each other, and the range is smallest: neap tide.
The two alternate every 7.4 days.

On the open ocean the tide lifts the water by about half a metre. Coasts and bays make more of it, or less. In the Bay of
Fundy in Canada the water rises and falls by up to 16 metres, because the bay is just long enough to swing in step with
the Moon; 160 billion tonnes of water go in and out with each tide. In the Mediterranean, which is almost closed, the range
seldom passes 40 centimetres.

Tides brake the Earth. Friction of the moving water takes about 3.7 terawatts out of its rotation, the day grows longer by
2.3 milliseconds in a century, and the Moon moves away by 3.8 centimetres a year. Corals of 400 million years ago show 400
daily rings in a year: the day then had 22 hours.

The first tidal power station of size was opened at the Rance in France in 1966. It makes 240 megawatts at its best. At
Sihwa in South Korea 254 megawatts were reached in 2011. A tide can be foretold for years ahead, which no wind can, and
that is what makes it worth its price to some.
"""
SECTIONS = tuple(TEXT.strip().split("\n\n"))


class Study(TypedDict):
    """What the agents work on."""

    sections: list[str]
    facts: Annotated[list[str], extend]
    analysis: str
    report: str


def _next_section(state: Any) -> str:
    """The section whose facts have not been taken yet."""
    return str(state["sections"][len(state.get("facts", ()))])


def _unread(state: Any) -> bool:
    return len(state["facts"]) < len(state["sections"])


def study() -> Workflow:
    """The workflow: the researcher goes on until every section is read, then the analyzer, then the writer."""
    model = os.environ.get("EVENTFLOW_DEMO_MODEL", MODEL)
    researcher = Agent(
        model=model, reads=_next_section, writes="facts",
        instructions="You are a researcher. Give the one or two facts with numbers that matter most in this section.",
    )  # fmt: skip
    analyzer = Agent(
        model=model, reads="facts", writes="analysis",
        instructions="You are an analyzer. Say in three lines what these facts have in common and which stands out.",
    )  # fmt: skip
    writer = Agent(
        model=model, reads=["facts", "analysis"], writes="report",
        instructions="You are a writer. Write a short report for a reader in a hurry from these facts and this analysis.",
    )  # fmt: skip
    return (
        Workflow("study", state=Study)
        .add_node("researcher", researcher)
        .add_node("analyzer", analyzer)
        .add_node("writer", writer)
        .add_edge("researcher", "researcher", when=_unread, label="unread sections")
        .add_edge("researcher", "analyzer")
        .add_edge("analyzer", "writer")
        .set_start("researcher")
    )


def initial() -> dict[str, Any]:
    """The run's input."""
    return {"sections": list(SECTIONS), "facts": []}
