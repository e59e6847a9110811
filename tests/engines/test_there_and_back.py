"""What one half writes for an engine, the other half reads as the same steps."""

import random
from itertools import compress

import pytest

from pabtune.engines.exports import export
from pabtune.engines.plan import Facts
from pabtune.engines.reading.configuration import DualBlocks, HeldSteps
from pabtune.engines.reading.files import read_configuration
from pabtune.records.errors import PolicyError
from tests.engines.policies import BEHIND_THE_FIRST, held, made_for
from tests.engines.test_exports import TWO


def random_mask(seed: int) -> tuple[bool, ...]:
    """Ten steps: the first computes, and one is held."""
    rng = random.Random(seed)
    others = [rng.random() < 0.5 for _ in range(8)]
    return (True, *others, not all(others))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["cache-dit", "sglang", "diffusers"])
def test_an_exported_file_is_read_as_the_mask_that_it_was_made_of(tmp_path, name, seed) -> None:
    mask = random_mask(seed)
    computed = tuple(compress(range(10), mask))
    policy = held(None if name == "diffusers" else BEHIND_THE_FIRST, computed)
    path = tmp_path / "exported"
    path.write_text(export(policy, name).text, encoding="utf-8")
    configuration = read_configuration(path)
    if name == "diffusers":
        assert (configuration.engine, configuration.steps, configuration.rule) == (name, 10, HeldSteps(mask=mask))
        return
    rule = configuration.rule
    assert isinstance(rule, DualBlocks)
    assert (configuration.engine, rule.mask, rule.is_static, rule.front, rule.back, rule.order) == (
        name, mask, True, 1, 0, 0,
    )  # fmt: skip


def test_a_file_for_two_transformers_is_refused_in_one_line(tmp_path) -> None:
    policy = held(made_for=made_for(names=("transformer", "transformer_2")))
    assert policy.made_for == TWO.made_for
    path = tmp_path / "exported.json"
    path.write_text(export(policy, "diffusers", Facts(boundary=0.55)).text, encoding="utf-8")
    with pytest.raises(PolicyError, match="it has steps for transformer, transformer_2; judge the policy that it was"):
        read_configuration(path)
