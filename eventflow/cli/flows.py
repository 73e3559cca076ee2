"""Workflows named on the command line or in the settings: the only names that are ever imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
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
        found = found()
    if not isinstance(found, Workflow):
        raise SettingsError(
            f"{where} has no workflow {attribute!r}; it must be a Workflow, or a function that gives one"
        )
    return found


def load_flows(names: Sequence[str] | None) -> list[Workflow]:
    """The workflows named by --flow, or by `workflows` in the settings."""
    given = list(names) if names else list(settings().get("workflows", ()))
    return [load_flow(name) for name in given]


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise SettingsError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} can't be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except (DefinitionError, SettingsError):
        raise
    except Exception as error:
        raise SettingsError(f"{path} can't be loaded: {type(error).__name__}: {error}") from error
    return module


def _from_module(name: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (DefinitionError, SettingsError):
        raise
    except ModuleNotFoundError as error:
        raise SettingsError(f"there is no module {error.name!r} to take a workflow from") from None
    except Exception as error:
        raise SettingsError(f"module {name} can't be loaded: {type(error).__name__}: {error}") from error
