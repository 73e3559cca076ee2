"""Workflows and schedules named on the command line or in the settings: the only names that are ever imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from eventflow.cli.shell import settings
from eventflow.errors import DefinitionError, InvalidState, SettingsError
from eventflow.workflow import Workflow

if TYPE_CHECKING:
    from eventflow.schedules import Schedule


def load_flow(name: str) -> Workflow:
    """The workflow at MODULE:NAME or path/to/file.py:NAME. Raises SettingsError, DefinitionError."""
    found, module = _found(name, "workflow", Workflow)
    if not isinstance(found, Workflow):
        have = ", ".join(key for key, value in vars(module).items() if isinstance(value, Workflow)) or "none"
        where, _, attribute = name.rpartition(":")
        raise SettingsError(
            f"{where} has no workflow {attribute!r} (it has: {have}); "
            f"it must be a Workflow, or a function without arguments that gives one"
        )
    return found


def fitting(flow: Workflow, data: Any) -> Any:
    """An input that a workflow takes, as it was given. Raises SettingsError, NotPlainData."""
    try:
        flow.schema.initial(data)
    except InvalidState as error:
        raise SettingsError(f"--input does not fit workflow {flow.name!r}: {error}") from None
    return data


def load_flows(names: Sequence[str] | None) -> list[Workflow]:
    """The workflows named by --flow, or by `workflows` in the settings. Raises SettingsError, DefinitionError."""
    return [load_flow(name) for name in _names(names, "workflows", "module:flow")]


def load_schedules(names: Sequence[str] | None) -> list[Schedule]:
    """The schedules named by --schedules, or by `schedules` in the settings. Raises SettingsError, DefinitionError."""
    loaded: list[Schedule] = []
    for name in _names(names, "schedules", "module:nightly"):
        loaded += _schedules_of(name)
    twice = next((one.name for one in loaded if sum(one.name == other.name for other in loaded) > 1), None)
    if twice is not None:
        raise SettingsError(
            f"two schedules are named {twice!r}; their runs could not be told apart: rename one of them"
        )
    return loaded


def _schedules_of(name: str) -> list[Schedule]:
    from eventflow.schedules import Schedule  # noqa: PLC0415 - only a worker that keeps some pays for time zones

    found, _ = _found(name, "schedule", Schedule)
    several = [found] if isinstance(found, Schedule) else list(found) if isinstance(found, list | tuple) else []
    if not several or not all(isinstance(one, Schedule) for one in several):
        where, _, attribute = name.rpartition(":")
        raise SettingsError(
            f"{where} has no schedules {attribute!r}; "
            f"it must be a Schedule, a list of them, or a function without arguments that gives one of these"
        )
    return several


def _names(given: Sequence[str] | None, setting: str, example: str) -> list[str]:
    """Names from the command line, else from the settings. Raises SettingsError."""
    names: Any = list(given) if given else settings().get(setting, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f'the setting `{setting}` is {names!r}; give a list of names, as in ["{example}"]')
    return names


def _found(name: str, what: str, kind: type) -> tuple[Any, ModuleType]:
    """What a name names, made by calling it if it is a function, and the module it is in. Raises SettingsError."""
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise SettingsError(f"{name!r} does not name a {what}; write {_names_in(name, kind)}")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_module(where)
    found = getattr(module, attribute, None)
    if callable(found) and not isinstance(found, kind):
        found = _tried(found, name)
    return found, module


def _names_in(name: str, kind: type) -> str:
    """How to name what a file has, where one was named without saying which; else how names are written."""
    path = Path(name.removesuffix(":"))
    have = vars(_from_file(path)).items() if path.suffix == ".py" and path.is_file() else ()
    found = [f"{path}:{key}" for key, value in have if isinstance(value, kind)]
    return " or ".join(found) or "MODULE:NAME or path/to/file.py:NAME"


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SettingsError(f"there is no file {path}")
    file = str(path.resolve())
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == file:
        return known  # two workflows of one file share what it defines
    name = path.stem if known is None else f"{path.stem} ({file})"  # a file may have a library's name
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} can't be loaded as Python")
    loader, module = spec.loader, importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _look_in(path.parent)
    try:
        _tried(lambda: loader.exec_module(module), str(path))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_module(name: str) -> ModuleType:
    _look_in(Path.cwd())
    if not all(map(str.isidentifier, name.split("."))) or not _is_there(name):
        raise SettingsError(f"there is no module {name!r} in {Path.cwd()} nor among the installed packages")
    module: ModuleType = _tried(lambda: importlib.import_module(name), name)
    return module


def _is_there(name: str) -> bool:
    """Whether there is such a module; the packages around it are imported to find it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            return False
        raise _not_loaded(name.rpartition(".")[0] or name, error) from error


def _look_in(directory: Path) -> None:
    place = str(directory.absolute())
    if place not in sys.path:
        sys.path.insert(0, place)


def _tried(load: Callable[[], Any], what: str) -> Any:
    """What the user's code gives. Raises SettingsError for whatever it raises, but our own sentences as they are."""
    try:
        return load()
    except (DefinitionError, SettingsError):
        raise
    except (Exception, SystemExit) as error:
        raise _not_loaded(what, error) from error


def _not_loaded(what: str, error: BaseException) -> SettingsError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return SettingsError(f"{what} can't be loaded: {type(error).__name__}: {error}{place}; mend it, then try again")
