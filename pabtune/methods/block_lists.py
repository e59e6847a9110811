"""The lists of blocks of a model as cache-dit counts its front and back in them.

Lists that run one after the other have a front and a back each. Lists that take turns, as spatial and temporal blocks do,
count as one, layer by layer.
"""

from collections.abc import Sequence

from pabtune.planning.units import blocks_of
from pabtune.records.errors import PolicyError
from pabtune.records.sites import Site


def dual_block_layers(name: str, front: int, back: int, sites: Sequence[Site]) -> dict[str | None, tuple[int, ...]]:
    """The layers between the front and the back, by transformer; None stands for all transformers where they are alike.

    Args:
        name: of the file, for messages.
        front: blocks at the beginning of each list that always compute.
        back: those at its end.
        sites: of the model.

    Raises:
        PolicyError: nothing lies between, or the lists cannot be told apart.
    """
    layers: dict[str, tuple[int, ...]] = {}
    for transformer in dict.fromkeys(site.transformer for site in sites):
        own = [site for site in sites if site.transformer == transformer]
        between = []
        for each in _lists(name, own):
            _check_between(name, front, back, transformer, len(each))
            between += each[front : len(each) - back]
        layers[transformer] = tuple(between)
    if len(set(layers.values())) == 1:
        return {None: next(iter(layers.values()))}
    return dict(layers)


def front_and_back(name: str, front: int, back: int, sites: Sequence[Site]) -> tuple[int, int]:
    """Numbers of blocks at the beginning and at the end that always compute, in the order in which all blocks run.

    Args:
        name: of the file, for messages.
        front: blocks at the beginning of the list.
        back: those at its end.
        sites: of the model.

    Raises:
        PolicyError: nothing lies between, or a model has several lists, of which the engine decides about each by itself.
    """
    turns = set()
    for transformer in dict.fromkeys(site.transformer for site in sites):
        own = [site for site in sites if site.transformer == transformer]
        lists = _lists(name, own)
        if len(lists) > 1:
            raise PolicyError(
                f"{name}: {transformer} has {len(lists)} lists of blocks, and the engine decides for each by itself, which "
                "pabtune cannot judge; a static mask can be judged"
            )
        _check_between(name, front, back, transformer, len(lists[0]))
        turns.add(len(blocks_of(own)) // len(lists[0]))
    if len(turns) > 1:
        raise PolicyError(
            f"{name}: the transformers of the model differ in their lists of blocks; this cannot be judged"
        )
    (together,) = turns
    return front * together, back * together


def has_several_lists(name: str, sites: Sequence[Site]) -> bool:
    """Whether a transformer has lists of blocks that run one after the other.

    Args:
        name: of the file, for messages.
        sites: of the model.
    """
    transformers = dict.fromkeys(site.transformer for site in sites)
    return any(len(_lists(name, [site for site in sites if site.transformer == each])) > 1 for each in transformers)


def _lists(name: str, sites: Sequence[Site]) -> list[list[int]]:
    """The layers of each list of blocks; of lists that take turns once."""
    by_list: dict[str, list[int]] = {}
    for block in blocks_of(sites):
        by_list.setdefault(block.path.rpartition(".")[0], []).append(block.layer)
    if not by_list:
        raise PolicyError(f"{name}: the card of the model names no blocks, of which something could be held")
    lists: list[list[int]] = []
    for path, layers in by_list.items():
        if sorted(layers) in lists:
            continue
        if any(set(layers) & set(each) for each in lists):
            raise PolicyError(f"{name}: the blocks of {path} run beside others, which cannot be judged")
        lists.append(sorted(layers))
    return lists


def _check_between(name: str, front: int, back: int, transformer: str, blocks: int) -> None:
    if front + back >= blocks:
        what = "the engine stops" if max(front, back) > blocks else "nothing is left to hold"
        raise PolicyError(
            f"{name}: {front} blocks in front and {back} behind always compute, of the {blocks} of {transformer}: {what}; "
            "name fewer (Fn_compute_blocks, Bn_compute_blocks)"
        )
