"""Resolving the token split of a card for a transformer: its modules, and diffusers' own plan where the card refers to it.

Knows modules, but nothing of processes. For diffusers' plans (`_cp_plan`) see "Context parallelism" in
https://huggingface.co/docs/diffusers.
"""

import inspect
from dataclasses import replace

from torch import nn

from pabtune.catalog import CATALOG, Catalog, Cut, TokenSplit
from pabtune.libraries.diffusers_internals import ContextParallelInput, ContextParallelOutput, context_parallel_plan
from pabtune.records.errors import ModelError


def find_plan(transformer: nn.Module, pipeline: str = "", catalog: Catalog = CATALOG) -> TokenSplit | None:
    """The token split of a transformer, with its cuts; None if its card has none, or has an objection.

    Args:
        transformer: a transformer of any class.
        pipeline: class name of the pipeline that calls it; empty if unknown.
        catalog: cards of transformer classes.

    Raises:
        ModelError: the card names modules or arguments that the transformer does not have.
    """
    card = catalog.find(type(transformer).__name__)
    split = None if card is None else card.token_split
    if split is None or split.objections(getattr(transformer, "config", {}), pipeline):
        return None
    if split.from_diffusers:
        split = _from_diffusers(transformer, split)
    _check(transformer, split)
    return split


def modules_at(transformer: nn.Module, path: str) -> list[nn.Module]:
    """Modules at a path of a card: all items of a list for `….*`, the last one for `….-1`.

    Raises:
        ModelError: there is no such module.
    """
    for suffix, items in ((".*", slice(None)), (".-1", slice(-1, None))):
        if path.endswith(suffix):
            return list(_submodule(transformer, path.removesuffix(suffix)))[items]  # type: ignore[call-overload]
    return [_submodule(transformer, path)]


def _submodule(transformer: nn.Module, path: str) -> nn.Module:
    try:
        return transformer.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(transformer).__name__} lacks the module {path!r} that its card names") from error


def _check(transformer: nn.Module, split: TokenSplit) -> None:
    """Checks that a split only names modules and arguments that exist."""
    modules_at(transformer, split.end)
    for cut in split.cuts:
        for module in modules_at(transformer, cut.module):
            arguments = inspect.signature(type(module).forward).parameters
            if isinstance(cut.of, str) and cut.of not in arguments:
                raise ModelError(
                    f"the card of {type(transformer).__name__} cuts {cut.of!r} of {cut.module!r}, but {type(module).__name__} "
                    f"takes {', '.join(list(arguments)[1:])}"
                )


def _from_diffusers(transformer: nn.Module, split: TokenSplit) -> TokenSplit:
    """The split with the cuts and the end of diffusers' plan of the class."""
    cuts, end = [], {}
    for module, entry in context_parallel_plan(transformer).items():
        if isinstance(entry, ContextParallelOutput):
            end = {"end": module, "dim": entry.gather_dim}
        elif isinstance(entry, dict):
            cuts += [
                Cut(module=module, of=name, dim=each.split_dim, ndim=each.expected_dims)
                for name, each in entry.items()
                if isinstance(each, ContextParallelInput)
            ]
    return replace(split, from_diffusers=False, cuts=tuple(cuts), **end)  # type: ignore[arg-type]
