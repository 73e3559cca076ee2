"""`python -m replay.rehearse` is the process in which a rehearsal is held; `replay rehearse` starts it."""

from replay.rehearse.apart import perform

perform()
