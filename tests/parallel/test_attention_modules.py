import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from pabtune.models.open_sora_plan.transformer import RotaryProcessor, rotary_angles
from pabtune.models.stdit3 import RotaryEmbedding, SelfAttention
from pabtune.parallel.attention_modules import decompose
from pabtune.records.errors import ParallelError


def open_sora_plan() -> Attention:
    module = Attention(query_dim=24, heads=2, dim_head=12, bias=True)
    module.set_processor(RotaryProcessor(1))
    return module.eval()


@torch.no_grad()
def test_the_parts_together_are_the_module() -> None:
    """Projections, norms, rotary embedding, kernel and output, for each class."""
    torch.manual_seed(0)
    x = torch.randn(3, 7, 24)
    stdit3, latte, plan = (
        SelfAttention(24, 2, True, True).eval(),
        Attention(24, heads=2, dim_head=12).eval(),
        open_sora_plan(),
    )
    angles = rotary_angles(torch.arange(7), 12)
    cases = (
        (stdit3, RotaryEmbedding(12)(7), lambda rotary: stdit3(x[:, :, None], rotary)[:, :, 0]),
        (latte, None, lambda rotary: latte(x)),
        (plan, (angles.cos(), angles.sin()), lambda rotary: plan(x, rotary=rotary)),
    )
    for module, rotary, whole in cases:
        parts = decompose(module)
        q, k, v = parts.project(x)
        assert q.shape == (3, 7, 2, 12)
        for made, (weight, bias) in zip((q, k, v), parts.projection_weights(), strict=True):
            torch.testing.assert_close(nn.functional.linear(x, weight, bias).unflatten(-1, (2, 12)), made)
        q, k = parts.normalise(q, k)
        if rotary is not None:
            q, k = parts.rotate(q, rotary), parts.rotate(k, rotary)
        torch.testing.assert_close(parts.finish(parts.attend(q, k, v).flatten(-2)), whole(rotary), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_taken_apart_is_refused() -> None:
    with pytest.raises(ParallelError, match="the attention of Linear cannot be split by heads; use dsp"):
        decompose(nn.Linear(2, 2))


def test_weights_of_layers_that_do_more_are_not_read() -> None:
    """An adapter on a projection would silently be left out."""
    module = Attention(24, heads=2, dim_head=12)
    module.to_q = nn.Sequential(module.to_q)
    with pytest.raises(ParallelError, match="splits the weights of plain linear layers, but got a Sequential"):
        decompose(module).projection_weights()
