"""pabtune: profile, search and run broadcast policies for video diffusion transformers.

`import pabtune` is cheap; what needs torch is loaded when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pabtune.catalog import CATALOG, Catalog, Cut, FrameSplit, Guidance, ModelCard, SitePattern, TokenSplit
from pabtune.planning.presets import find_policy
from pabtune.records.errors import PabtuneError, PabtuneWarning
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile

if TYPE_CHECKING:
    from pabtune.models.registry import load_pipeline
    from pabtune.models.shapes.pipeline import ShapesPipeline
    from pabtune.models.shapes.text import WordEncoder
    from pabtune.models.stdit3 import STDiT3Transformer3DModel
    from pabtune.parallel.session import parallelize
    from pabtune.planning.ranking import rank_schedules
    from pabtune.runtime.engine import broadcast, disable, enable
    from pabtune.tuning.evaluate import evaluate
    from pabtune.tuning.profile import profile
    from pabtune.tuning.search import search

__all__ = [
    "CATALOG",
    "Catalog",
    "Cut",
    "FrameSplit",
    "Guidance",
    "ModelCard",
    "PabtuneError",
    "PabtuneWarning",
    "ParallelLayout",
    "Policy",
    "Profile",
    "STDiT3Transformer3DModel",
    "ShapesPipeline",
    "SitePattern",
    "TokenSplit",
    "WordEncoder",
    "broadcast",
    "disable",
    "enable",
    "evaluate",
    "find_policy",
    "load_pipeline",
    "parallelize",
    "profile",
    "rank_schedules",
    "search",
]

try:
    __version__ = version("pabtune")
except PackageNotFoundError:
    __version__ = "0+uninstalled"

_LAZY = {
    # As under TYPE_CHECKING, for when the program runs.
    "ShapesPipeline": "pabtune.models.shapes.pipeline",
    "WordEncoder": "pabtune.models.shapes.text",
    "STDiT3Transformer3DModel": "pabtune.models.stdit3",
    "load_pipeline": "pabtune.models.registry",
    "broadcast": "pabtune.runtime.engine",
    "disable": "pabtune.runtime.engine",
    "enable": "pabtune.runtime.engine",
    "evaluate": "pabtune.tuning.evaluate",
    "parallelize": "pabtune.parallel.session",
    "profile": "pabtune.tuning.profile",
    "rank_schedules": "pabtune.planning.ranking",
    "search": "pabtune.tuning.search",
}


def __getattr__(name: str) -> Any:
    """A public name that needs torch, when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'pabtune' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
