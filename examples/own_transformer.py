"""A transformer of your own: what pabtune guesses of it, a card that says more, the check of the card, a policy on it.

    python examples/own_transformer.py

`docs/models-add.md` says how to read what the card needs from the `forward` of a block. Nothing of pabtune is changed.
"""

import click
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks import HookRegistry
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

import pabtune
from pabtune.catalog.card import sites_in
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.testing import check_card

STEPS = 12


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        return self.to_out(nn.functional.scaled_dot_product_attention(*self.to_qkv(x).chunk(3, dim=-1)))


class MyBlock(nn.Module):
    """What is added to the residual is the site: `mixer` and `ff`; a norm that only one of them reads is its feeder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in, self.mixer = nn.LayerNorm(width), Attention(width)
        self.norm_out, self.ff = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Two residuals."""
        x = x + self.mixer(self.norm_in(x) * (1 + time))
        return x + self.ff(self.norm_out(x))


class MyTransformer(ModelMixin, ConfigMixin, CacheMixin):
    """A network that diffusers does not know. Its output is a plain tensor."""

    @register_to_config
    def __init__(self, width: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MyBlock(width) for _ in range(layers))

    def forward(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the scheduler is to take away."""
        x = latents
        for block in self.blocks:
            x = block(x, timestep)
        return x


CARD = pabtune.ModelCard(
    transformer="MyTransformer",
    sites=sites_in("blocks", mixer=("full", "norm_in"), ff=("mlp", "norm_out")),
)


def denoise(transformer: MyTransformer) -> Tensor:
    """A loop of one's own: it tells the branch and the step, and when it is over."""
    x = torch.randn(1, 64, transformer.config.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for step in range(STEPS):
            time = torch.tensor(1 - step / STEPS)
            with transformer.cache_context("cond", step_index=step, num_inference_steps=STEPS):
                x = x - transformer(x, time) / STEPS
    HookRegistry.check_if_exists_or_initialize(transformer).reset_stateful_hooks()
    return x


@click.command()
def command() -> None:
    """Print the sites without and with the card, check it, and run a policy."""
    torch.manual_seed(0)
    transformer = MyTransformer().eval()
    try:
        guessed = [f"{site.path} ({site.kind})" for site in Target.of(transformer).sites]
        click.echo(f"guessed: {', '.join(guessed)}")
    except pabtune.PabtuneError as error:
        click.echo(f"without a card: {error}")
    catalog = pabtune.CATALOG.with_card(CARD)  # a value; nothing is registered
    sites = Target.of(transformer, catalog).sites
    click.echo(f"by the card: {', '.join(f'{site.path} ({site.kind})' for site in sites)}")
    check_card(CARD, transformer, lambda: denoise(transformer))
    click.echo("the card holds")
    plain = denoise(transformer)
    rules = (Rule(kind="full", range=3, window=(2, STEPS - 1)), Rule(kind="mlp", range=2, window=(2, STEPS - 1)))
    with pabtune.broadcast(transformer, pabtune.Policy(name="mine", rules=rules), catalog=catalog) as run:
        error = (denoise(transformer) - plain).norm() / plain.norm()
    for kind, line in run.summary()["step_pattern"].items():
        click.echo(f"{kind:5} {line}")
    click.echo(f"relative error {error:.4f}")


if __name__ == "__main__":
    command()
