"""YAML and JSON that people write or edit, read into models; what is wrong is said in words of the file's own keys."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from edge_fer.core.errors import BadInputError
from edge_fer.core.findings import findings

M = TypeVar("M", bound=BaseModel)


def read_yaml(path: Path, what: str, error: type[BadInputError] = BadInputError, fix: str = "") -> object:
    """The content of a YAML file.

    Args:
        what: it should be: a noun without its article, such as "run config".
        error: to raise, with ``fix``.

    Raises:
        BadInputError: (or the subclass given) missing, empty, no text, or not YAML.
    """
    try:
        tree: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as caught:
        raise error(f"Cannot read the {what} {path}: {caught.strerror}.", fix=fix) from None
    except UnicodeDecodeError:
        raise error(f"The {what} {path} is not a text file.", fix=fix) from None
    except yaml.YAMLError as caught:
        raise error(f"The {what} {path} is not valid YAML{yaml_complaint(caught)}.", fix=fix) from None
    if tree is None:
        raise error(f"The {what} {path} is empty.", fix=fix)
    return tree


def read_settings(path: Path, kind: type[M], what: str, error: type[BadInputError] = BadInputError, fix: str = "") -> M:
    """:func:`read_yaml` into a model; wrong keys are named, all of them."""
    tree = read_yaml(path, what, error, fix)
    try:
        return kind.model_validate(tree)
    except ValidationError as caught:
        raise error(f"The {what} {path} is not valid: {findings(caught, kind)}.", fix=fix) from None


def yaml_complaint(error: yaml.YAMLError) -> str:
    """`` (line L, column C: what)`` as far as the parser knows."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return ""
    return f" (line {mark.line + 1}, column {mark.column + 1}: {problem})"
