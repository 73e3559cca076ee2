"""`python -m tests.fuzz [TARGET …] --seconds N`: coverage-guided fuzzing with atheris, a process a target.

Without atheris it says what to install, and exits with 2. What is found lies in `--found`, an input a file; put it into the
corpus of its target once it is mended. Run from the root of the repository.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
MAX_INPUT = 4_096  # bytes: what breaks a reader is short; long inputs have tests of their own


def main() -> int:
    """Fuzz targets, as many at a time as there are processors; exit code 1 if one of them broke."""
    sys.path.insert(0, str(HERE))
    from targets import TARGETS  # noqa: PLC0415 - the child that is instrumented imports it in its own way

    given = _arguments(list(TARGETS))
    if find_spec("atheris") is None:
        print("there is no atheris here; install it with: pip install atheris", file=sys.stderr)  # noqa: T201
        return 2
    names = list(given.targets or TARGETS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        held = list(pool.map(lambda name: _holds(name, given), names))
    return 0 if all(held) else 1


def _holds(name: str, given: argparse.Namespace) -> bool:
    """Fuzz one target in a process of its own, and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        found = Path(given.found) / name
        found.mkdir(parents=True, exist_ok=True)
        argv = [
            sys.executable, str(HERE / "__main__.py"), "--one", name, work, str(HERE / "corpus" / name),
            f"-max_total_time={given.seconds}", f"-max_len={MAX_INPUT}", "-timeout=10", "-rss_limit_mb=1024",
            f"-artifact_prefix={found}/", "-verbosity=0", "-print_final_stats=1", f"-seed={given.seed}",
        ]  # fmt: skip
        done = subprocess.run(argv, check=False, capture_output=True, text=True, errors="replace")
    runs = next((line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line), "?")
    told = f"{name}: {runs} inputs, {'BROKE' if done.returncode else 'held'}"
    more = ["", done.stdout[-4_000:], done.stderr[-4_000:]] if done.returncode else []
    print("\n".join([told, *more]), flush=True)  # noqa: T201
    return not done.returncode


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*names, []], help="all of them if left out")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs; 0, as it is, is another one each time")
    parser.add_argument(
        "--found", default=str(Path(tempfile.gettempdir()) / "eventflow-fuzz"), help="where findings go"
    )
    return parser.parse_args()


def one(name: str, argv: list[str]) -> None:
    """Fuzz one target in this process, for ever or as long as libFuzzer is told."""
    import atheris  # noqa: PLC0415 - optional

    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    with atheris.instrument_imports(include=["eventflow", "replay", "hostile_cbor"]):
        from targets import attempt, bound  # noqa: PLC0415 - instrumented

    def fed(data: bytes) -> None:
        taken = attempt(name, data)
        if taken > bound(data) * 3:  # instrumented code is slower
            raise TimeoutError(f"{len(data)} bytes took {taken:.1f} s")

    atheris.Setup([sys.argv[0], *argv], fed)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
