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
    """Its path hangs on a value: of its argument, or of what it computes."""

    def __init__(self, looks_at: str) -> None:
        super().__init__()
        self.attn = nn.Linear(2, 2)
        self.looks_at = looks_at

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """One way or the other."""
        if self.looks_at == "mask":
            mask = torch.ones(len(hidden), dtype=torch.bool)
            mask &= hidden[:, 0] > 0
            return self.attn(hidden[mask])
        value = hidden if self.looks_at == "argument" else self.attn(hidden)
        return self.attn(hidden) if value.sum().item() > 0 else hidden


def test_values_of_arguments_are_known_and_those_of_outputs_are_not() -> None:
    positive, mixed = torch.ones(3, 2), torch.tensor([[1.0, 0], [-1, 0], [1, 0]])
    assert weigh_outputs(Fickle("argument"), {0: "attn"}, (positive,), {}, nbytes) == {0: 24}
    assert weigh_outputs(Fickle("argument"), {0: "attn"}, (-positive,), {}, nbytes) == {0: 0}
    assert weigh_outputs(Fickle("mask"), {0: "attn"}, (mixed,), {}, nbytes) == {0: 16}
    assert (mixed == torch.tensor([[1.0, 0], [-1, 0], [1, 0]])).all()
    assert weigh_outputs(Fickle("output"), {0: "attn"}, (positive,), {}, nbytes) is None


def test_with_both_branches_in_one_call_nothing_is_computed_over_the_limit(pipeline) -> None:
    calls = []
    pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    with pabtune.broadcast(pipeline, pyramid(), memory=1000), pytest.raises(PolicyError, match="more than the limit"):
        draw(pipeline)
    assert not calls
