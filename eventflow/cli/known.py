"""Whether a workflow is among those that are named: asked in a process of its own by whoever may not load workflows itself.

`python -m eventflow.cli.known RUN WORKFLOW [FLOW...]` loads what is named, else what the settings name, and drives nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eventflow.cli.flows import load_flows
from eventflow.cli.shell import OK, visible
from eventflow.errors import EventflowError, SettingsError


def check_known(run_id: str, workflow: str, flows: Sequence[str]) -> None:
    """Refuse a run whose workflow is not among those named. Raises SettingsError, DefinitionError."""
    have = [one.name for one in load_flows(flows)]
    if workflow not in have:
        raise SettingsError(
            f"run {run_id} belongs to workflow {workflow!r}, which is not known here (known: {', '.join(have) or 'none'}); "
            f"name it with --flow MODULE:FLOW, or as one of `workflows` in the settings"
        )


def main(argv: Sequence[str]) -> int:
    """The exit code that says whether it is known; if it is not, a sentence on stderr says why."""
    run_id, workflow, *flows = argv
    try:
        check_known(run_id, workflow, flows)
    except EventflowError as error:
        print(f"eventflow: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
