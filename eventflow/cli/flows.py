"""Workflows named on the command line or in the settings: the only names that are ever imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from eventflow.cli.shell import settings
from eventflow.errors import DefinitionError, SettingsError
from eventflow.workflow import Workflow


def load_flow(name: str) -> Workflow:
    """The workflow at MODULE:NAME or path/to/file.py:NAME. Raises SettingsError, DefinitionError."""
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise SettingsError(f"{name!r} does not name a workflow; write MODULE:NAME or path/to/file.py:NAME")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_module(where)
    found = getattr(module, attribute, None)
    if callable(found) and not isinstance(found, Workflow):
        found = _tried(found, name)
    if not isinstance(found, Workflow):
        have = ", ".join(key for key, value in vars(module).items() if isinstance(value, Workflow)) or "none"
        raise SettingsError(
            f"{where} has no workflow {attribute!r} (it has: {have}); "
            f"it must be a Workflow, or a function without arguments that gives one"
        )
    return found


def load_flows(names: Sequence[str] | None) -> list[Workflow]:
    """The workflows named by --flow, or by `workflows` in the settings. Raises SettingsError, DefinitionError."""
    given: Any = list(names) if names else settings().get("workflows", [])
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise SettingsError(f'the setting `workflows` is {given!r}; give a list of names, as in ["module:flow"]')
    return [load_flow(name) for name in given]


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
