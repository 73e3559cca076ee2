"""Completion: a script for each shell, of both programs."""

from __future__ import annotations

import subprocess
from shutil import which

import pytest

BASH = which("bash")
ASK = """
. ./script
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p {program} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {program}
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eventflow res", "resume"),
        ("eventflow checkpoints cr", "create"),
        ("replay bis", "bisect"),
        ("replay log --fol", "--follow"),
    ],
)
def test_bash_completes_commands_and_options(run_eventflow, run_replay, desk, words, said):
    """By the script that is printed, without asking the program again."""
    program = words.split()[0]
    ended = {"eventflow": run_eventflow, "replay": run_replay}[program]("completion", "bash")
    assert (ended.code, ended.err) == (0, "")
    (desk / "script").write_text(ended.out)
    asked = ASK.format(words=words, program=program)
    done = subprocess.run([BASH, "-c", asked], cwd=desk, capture_output=True, text=True, check=True)
    assert said in done.stdout.split()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(run_eventflow, shell):
    """It names the commands; a shell that is not known is refused."""
    ended = run_eventflow("completion", shell)
    assert ended.code == 0
    assert "checkpoints" in ended.out
    assert run_eventflow("completion", "cmd").code == 2
