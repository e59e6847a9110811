"""Models that pabtune ships or knows, and where the sites of known models are."""

from typing import Any

__all__ = ["build_on_meta"]


def __getattr__(name: str) -> Any:
    if name == "build_on_meta":
        from pabtune.models.registry import build_on_meta

        return build_on_meta
    raise AttributeError(f"module 'pabtune.models' has no attribute {name!r}")
