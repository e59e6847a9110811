import pytest
import torch
from torch import nn

import pabtune
from pabtune.records.errors import PolicyError
from pabtune.runtime.targets import Target
from pabtune.runtime.twin import weigh_outputs
from tests.conftest import draw, make_transformer, pyramid


def nbytes(output: torch.Tensor) -> int:
    return output.nbytes


ARGUMENTS = {
    "hidden_states": torch.randn(2, 4, 8, 24, 24),
    "timestep": torch.full((2,), 500.0),
    "encoder_hidden_states": torch.randn(2, 24, 16),
}


def test_outputs_weigh_what_they_do_in_a_real_call() -> None:
    transformer = make_transformer()
    paths = {index: site.path for index, site in enumerate(Target.of(transformer).sites)}
    foreseen = weigh_outputs(transformer, paths, (), ARGUMENTS, nbytes)
    real = {}
    for index, path in paths.items():
        module = transformer.get_submodule(path)
        module.register_forward_hook(lambda m, a, out, index=index: real.__setitem__(index, out.nbytes))
    transformer(**ARGUMENTS)
    assert foreseen == real


def test_the_network_itself_is_not_touched() -> None:
    transformer = make_transformer().bfloat16()
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    marks = [set(vars(module)) for module in transformer.modules()]
    weights = weigh_outputs(transformer, {0: "spatial_blocks.0.attn"}, (), ARGUMENTS, nbytes)
    assert weights == {0: 2 * 8 * 36 * 24 * 2}
    assert all(torch.equal(value, before[name]) for name, value in transformer.state_dict().items())
    assert [set(vars(module)) for module in transformer.modules()] == marks


class Fickle(nn.Module):
    """Its path hangs on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(2, 2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """One way or the other."""
        return self.attn(hidden) if hidden.sum().item() > 0 else hidden


def test_what_cannot_be_told_without_values_is_not_told() -> None:
    assert weigh_outputs(Fickle(), {0: "attn"}, (torch.ones(2),), {}, nbytes) is None


def test_with_both_branches_in_one_call_nothing_is_computed_over_the_limit(pipeline) -> None:
    calls = []
    pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    with pabtune.broadcast(pipeline, pyramid(), memory=1000), pytest.raises(PolicyError, match="more than the limit"):
        draw(pipeline)
    assert not calls
