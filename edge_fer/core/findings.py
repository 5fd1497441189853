"""What pydantic found wrong, in words of the file's own keys."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError


def findings(error: ValidationError, kind: type[BaseModel], *, first: bool = False) -> str:
    """All that is wrong, or only the first thing, as a part of a sentence: ``key: what``, by semicolons.

    Args:
        kind: what the content was to be; its keys are proposed for unknown ones.
    """
    found = error.errors()[:1] if first else error.errors()
    return "; ".join(_finding(dict(one), kind) for one in found)


def _finding(one: dict[str, Any], kind: type[BaseModel]) -> str:
    place = [str(part) for part in one["loc"]]
    if one["type"] == "extra_forbidden":
        known = sorted(kind.model_fields) if len(place) == 1 else []
        close = difflib.get_close_matches(place[-1], known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})" if known else ""
        return f"unknown key {'.'.join(place)}{hint}"
    if one["type"] == "missing":
        return f"the key {'.'.join(place)} is missing"
    if one["type"] in ("model_type", "model_attributes_type", "dict_type") and not place:
        return "it holds no keys with values"
    message = str(one["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(place)}: {message}" if place else message
