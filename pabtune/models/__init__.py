"""The networks and pipelines of pabtune, loading of models by name, and the search for sites in a transformer."""

from typing import Any

__all__ = ["build_on_meta"]


def __getattr__(name: str) -> Any:
    if name == "build_on_meta":
        from pabtune.models.registry import build_on_meta

        return build_on_meta
    raise AttributeError(f"module 'pabtune.models' has no attribute {name!r}")
