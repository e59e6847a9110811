from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site

SITES = tuple(
    Site(path=f"{path}.{layer}.{kind}", kind=kind, layer=layer, block=f"{path}.{layer}")
    for path in ("spatial_blocks", "temporal_blocks")
    for layer in range(4)
    for kind in ("cross", "mlp")
)


def policy(kind: str, layers: tuple[int, ...] | None = None) -> Policy:
    return Policy(name="p", rules=(Rule(kind=kind, range=2, window=(1, 5), layers=layers),))


def test_no_rule_for_them_no_units() -> None:
    assert units_of(policy("mlp"), SITES) == ()


def test_every_block_is_a_site_of_its_own() -> None:
    blocks = units_of(policy("block", (1,)), SITES)
    assert [(block.path, block.layer) for block in blocks] == [
        (f"{path}.{layer}", layer) for path in ("spatial_blocks", "temporal_blocks") for layer in range(4)
    ]


@pytest.mark.parametrize(("layers", "first", "others"), [((1, 2), 1, (2,)), (None, 0, (1, 2, 3)), ((3,), 3, ())])
def test_a_stack_is_made_of_each_list(layers, first, others) -> None:
    stacks = units_of(policy("stack", layers), SITES)
    assert [(stack.path, stack.layer, stack.feeders) for stack in stacks] == [
        (f"{path}.{first}", first, tuple(f"{path}.{layer}" for layer in others))
        for path in ("spatial_blocks", "temporal_blocks")
    ]


def test_sites_in_a_stack_compute_only_where_it_does() -> None:
    chosen = policy("stack", (1, 2))
    mask = resolve(chosen, (*SITES, *units_of(chosen, SITES)), NoiseSchedule(steps=6)).inside_blocks()
    assert mask.sites == SITES
    for site, row in zip(mask.sites, mask.compute, strict=True):
        expected = [True, False, True, False, True, True] if site.layer in (1, 2) else [True] * 6
        assert np.array_equal(row, expected), site


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"the layers of a stack must follow one another, but are \[0, 2\]"):
        units_of(policy("stack", (0, 2)), SITES)
    both = Policy(name="p", rules=(*policy("stack", (0,)).rules, *policy("block", (1,)).rules))
    with pytest.raises(PolicyError, match="cannot stand side by side"):
        units_of(both, SITES)
    missing = policy("stack", (3, 4))
    with pytest.raises(PolicyError, match=r"names layer 4, but the model's stack layers are 3\.\.3"):
        resolve(missing, (*SITES, *units_of(missing, SITES)), NoiseSchedule(steps=6))


def test_a_stack_is_of_the_transformer_that_its_rule_names() -> None:
    """A stack for each of two transformers was refused as two rules for one site (Wan 2.2)."""
    sites = [replace(site, transformer=name) for name in ("transformer", "transformer_2") for site in SITES]
    rules = [
        Rule(kind="stack", compute=computed, layers=(1, 2), transformer=name)
        for name, computed in (("transformer", (0, 2, 4)), ("transformer_2", (0, 3)))
    ]
    both = Policy(name="p", rules=tuple(rules))
    units = units_of(both, sites)
    assert [unit.transformer for unit in units] == ["transformer"] * 2 + ["transformer_2"] * 2
    mask = resolve(both, (*sites, *units), NoiseSchedule(steps=5))
    rows = {site.transformer: row.tolist() for site, row in zip(mask.sites, mask.compute, strict=True) if site in units}
    assert rows == {"transformer": [True, False] * 2 + [True], "transformer_2": [True, False, False, True, False]}
