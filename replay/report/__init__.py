"""An account of one run for somebody who was not there: who, what, when, which calls, which decisions, how it ended."""

from replay.report.account import account
from replay.report.facts import Account, Act, Call, Decision, Origin, Relative, Stay

__all__ = ["Account", "Act", "Call", "Decision", "Origin", "Relative", "Stay", "account"]
