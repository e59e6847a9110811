"""Interpreting the token split of a card for a transformer: which modules it names, and diffusers' own plan where it says so.

diffusers' plans (`_cp_plan`): https://huggingface.co/docs/diffusers, context parallelism. Knows modules; knows nothing of
processes.
"""

import inspect
from dataclasses import replace

from torch import nn

from pabtune.catalog import CATALOG, Catalog, Cut, TokenSplit
from pabtune.libraries.diffusers_internals import ContextParallelInput, ContextParallelOutput, context_parallel_plan
from pabtune.records.errors import ModelError


def find_plan(transformer: nn.Module, pipeline: str = "", catalog: Catalog = CATALOG) -> TokenSplit | None:
    """The token split of a transformer, with its cuts; None if there is none, or something speaks against it.

    Args:
        transformer: any.
        pipeline: class name of the pipeline that calls it, if known.
        catalog: what is known of classes.

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
    """The module at a path of a card: all items of the list for `….*`, its last for `….-1`.

    Raises:
        ModelError: there is none.
    """
    for end, chosen in ((".*", slice(None)), (".-1", slice(-1, None))):
        if path.endswith(end):
            return list(_submodule(transformer, path.removesuffix(end)))[chosen]  # type: ignore[call-overload]
    return [_submodule(transformer, path)]


def _submodule(transformer: nn.Module, path: str) -> nn.Module:
    try:
        return transformer.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(transformer).__name__} lacks the module {path!r} that its card names") from error


def _check(transformer: nn.Module, split: TokenSplit) -> None:
    """Refuses a split that names what is not there."""
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
    """A split with the cuts and the end of the class's own plan."""
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
