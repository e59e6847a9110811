"""Finding the sites of a transformer: by the table where its class is known, by its structure where not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pabtune.models.site_tables import SitePattern, known_patterns
from pabtune.records.errors import ModelError
from pabtune.records.sites import Kind, Site

TEXT_SIDE = re.compile(r"refiner|text|context|caption|encoder")
"""Lists of blocks with these words in their paths work on the prompt, not on the video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMap:
    """The sites of one transformer, and where the knowledge comes from.

    Attributes:
        sites: in the order of their patterns, layer by layer.
        source: `table` for a known class, else `structure`.
        notes: for a guess, what each kind was told by.
    """

    sites: tuple[Site, ...]
    source: str
    notes: tuple[str, ...] = ()


def find_sites(transformer: nn.Module, name: str = "transformer") -> SiteMap:
    """All sites of a transformer.

    Args:
        transformer: the network.
        name: its name in the pipeline.

    Raises:
        ModelError: nothing is known of the class and nothing looks like a site, or the table does not fit the module.
    """
    class_name = type(transformer).__name__
    patterns = known_patterns().get(class_name)
    if patterns is not None:
        return SiteMap(sites=_expand(transformer, name, patterns), source="table")
    guesses = guess_patterns(transformer)
    if not guesses:
        raise ModelError(
            f"no sites are known for {class_name}, and no list of its blocks has attention or feed-forward modules that "
            f"could be told by their names; describe them with pabtune.register_sites({class_name}, …)"
        )
    sites = _expand(transformer, name, [pattern for pattern, _ in guesses])
    return SiteMap(sites=sites, source="structure", notes=tuple(note for _, note in guesses))


def guess_patterns(transformer: nn.Module) -> list[tuple[SitePattern, str]]:
    """Patterns for a class that nobody described, each with what speaks for it. Feeders are never guessed."""
    guesses = []
    for path, blocks in transformer.named_modules():
        if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0 or TEXT_SIDE.search(path):
            continue
        for child, module in blocks[0].named_children():
            guess = _guess_kind(path, child, module)
            if guess is not None:
                pattern = SitePattern(blocks=path, child=child, kind=guess[0])
                guesses.append((pattern, f"{path}.*.{child}: {guess[0]} ({guess[1]})"))
    return guesses


def _guess_kind(path: str, child: str, module: nn.Module) -> tuple[Kind, str] | None:
    is_attention = hasattr(module, "to_q") or hasattr(module, "to_qkv") or "attention" in type(module).__name__.lower()
    if is_attention:
        marked = getattr(module, "is_cross_attention", None)
        if marked or re.search(r"cross|attn2|encoder_attn", child):
            return "cross", "sure: it says so" if marked else "likely: by its name"
        if re.search(r"temporal|time|frame", path):
            return "temporal", "likely: its list is named temporal"
        if re.search(r"spatial", path):
            return "spatial", "likely: its list is named spatial"
        return "full", "unsure: an attention that is neither marked nor named otherwise"
    if re.fullmatch(r"(\w+_)?(mlp|ff|ffn|feed_forward)(_\w+)?", child):
        return "mlp", "likely: by its name"
    return None


def _expand(transformer: nn.Module, name: str, patterns: Sequence[SitePattern]) -> tuple[Site, ...]:
    modules = {path: module for path, module in transformer.named_modules() if module is not None}

    def module_at(path: str) -> nn.Module:
        if path not in modules:
            raise ModelError(
                f"{type(transformer).__name__} lacks the module {path!r} of its site table; was it changed after loading?"
            )
        return modules[path]

    sites = []
    for pattern in patterns:
        before = sum(len(module_at(path)) for path in pattern.after)  # type: ignore[arg-type]
        if pattern.optional and pattern.blocks not in modules:
            continue
        for layer in range(len(module_at(pattern.blocks))):  # type: ignore[arg-type]
            block = f"{pattern.blocks}.{layer}"
            path = f"{block}.{pattern.child}" if pattern.child else block
            if pattern.optional and path not in modules:
                continue
            feeders = tuple(f"{block}.{feeder}" for feeder in pattern.feeders)
            for each in (path, *feeders):
                module_at(each)
            sites.append(
                Site(
                    transformer=name, path=path, kind=pattern.kind, layer=before + layer, feeders=feeders,
                    state=pattern.state,
                )
            )  # fmt: skip
    if not sites:
        raise ModelError(f"{type(transformer).__name__} has no blocks in {patterns[0].blocks!r}")
    return tuple(sites)
