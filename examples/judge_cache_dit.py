"""What a cache-dit YAML costs, and a policy of pabtune beside it: same model, prompts, seeds and noise.

    python examples/judge_cache_dit.py
    python examples/judge_cache_dit.py --yaml OURS.yaml --policy policies/shapes-30steps.json --count 24

The command line does the same: `pabtune evaluate shapes --policy examples/cache-dit.yaml --policy POLICY.json`. cache-dit
itself is not needed: pabtune runs its rule (`docs/engines-judge.md`). The model is the small one that pabtune ships; what the
YAML costs on yours only yours tells.
"""

from collections.abc import Sequence
from pathlib import Path

import click

import pabtune
from pabtune.engines.reading.files import read_configuration
from pabtune.methods.engine_files import engine_policy
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.records.errors import PolicyError
from pabtune.records.evaluations import Evaluation
from pabtune.runtime.targets import Target

ROOT = Path(__file__).parents[1]
STEPS = 30


def judge(configured: Path, policy: Path, count: int) -> Sequence[Evaluation]:
    """Evaluates a file of another engine and a policy file, in this order.

    Args:
        configured: the other engine's file.
        policy: the policy file.
        count: number of prompts, which no search has seen.
    """
    pipeline = pabtune.load_pipeline("shapes")
    configuration = read_configuration(configured)
    if configuration is None:
        raise PolicyError(f"{configured}: is a file of pabtune's own, not of another engine")
    theirs = engine_policy(configuration, Target.of(pipeline), STEPS)
    for remark in theirs.remarks:
        click.echo(f"{configuration.name}: {remark}", err=True)
    prompts = sample_prompts(count, seed=4, part="test")
    return pabtune.evaluate(pipeline, [theirs.policy, pabtune.Policy.load(policy)], prompts, STEPS, batch_size=8)


@click.command()
@click.option("--yaml", "configured", type=click.Path(path_type=Path), default=ROOT / "examples" / "cache-dit.yaml")
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    default=ROOT / "policies" / "shapes-30steps-front" / "shapes-30steps-15of30.json",
)
@click.option("--count", type=click.IntRange(min=1), default=8, show_default=True, help="Prompts.")
def command(configured: Path, policy: Path, count: int) -> None:
    """Print what both compute, how long they take, and how close their videos are to the unaccelerated ones."""
    click.echo(f"{'':28} compute   speed  PSNR mean    worst   drop")
    for each in judge(configured, policy, count):
        row = each.to_document()
        fidelity = row["fidelity"]
        click.echo(
            f"{row['policy']:28} {row['compute_fraction']:7.1%}  {row['speedup']:5.2f}x  {fidelity['psnr_db']:6.1f} dB  "
            f"{fidelity['worst_psnr_db']:5.1f}  {row['score']['drop']:+5.2f}"
        )


if __name__ == "__main__":
    command()
