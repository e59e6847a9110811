"""The table of models: which sites, which laws hold, what is compiled. From the results of the tests, into docs/models.md.

    python benchmarks/models_table.py [--out docs/models.md]

Runs `tests/pipelines`, the slow ones too (minutes), and fails if one of them does.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pabtune.catalog import CATALOG  # noqa: E402
from pabtune.runtime.targets import Target  # noqa: E402
from pabtune.tuning.profile import versions  # noqa: E402
from tests.pipelines.cases import CASES  # noqa: E402

LAWS = {
    "exact": ("test_the_sites_are_found", "test_range_one", "test_it_equals", "test_every_run"),
    "free": ("test_what_is_held", "test_a_copy_made", "test_a_transformer_may", "test_a_policy_adds"),
    "batch": ("test_a_batch_of_prompts", "test_several_videos"),
    "memory": ("test_a_run_over", "test_what_is_foreseen"),
    "offload": ("test_group_offload", "test_model_offload", "test_layerwise"),
    "LoRA": ("test_lora",),
    "compiled": ("test_a_compiled_model",),
    "blocks": ("test_compiled_blocks",),
}
"""Columns of the table, and the tests behind each."""

HEAD = """# Models

Made by `python benchmarks/models_table.py` from the results of `tests/pipelines`: real classes of diffusers, small, with
random weights, saved and loaded by `from_pretrained`. Versions: {versions}. Do not edit.

- **sites**: number of sites per kind in the small model; `pabtune models --sites MODEL` prints those of yours.
  **skipped too**: modules that only feed a site and are skipped with it.
- **exact**: range 1 and disabling equal the bare model bit for bit; under a policy the result equals that of an independent
  implementation (`pabtune/testing/oracle.py`) bit for bit; every run equals one on a fresh model, after aborted runs too.
- **free**: nothing is held when the video is decoded; copies and other pipelines around the transformer run untouched; no
  host synchronisation is added (one read per forward where the scheduler has no step index).
- **memory**: what a run will hold, in all branches, is known before anything computes, and a run over its limit is
  refused there.
- **batch**, **offload**, **LoRA**: several prompts or videos per prompt; group offload, model offload and layerwise
  casting, enabled before or after the policy; adapters loaded before or after.
- **compiled**: `transformer.compile(fullgraph=True)`, one graph per pattern of the policy; **blocks**:
  `compile_repeated_blocks`, graphs shared by all layers.

`ok` = the tests pass; `n/a` = diffusers cannot do it with this class (the test skips and says why); `-` = not tried.

"""

TAIL = """
With a card, but without a small pipeline of its own: {others}. MiniMax-H3 has no `DiffusionPipeline`; its transformer is
driven by hand (`tests/pipelines/test_minimax.py`).

What is not broadcast, and why:

- asynchronous diffusion forcing (SkyReels-V2, `ar_step` > 0): frames are at different steps; a call computes everything
  until every frame has started, then the noisiest frame's step counts;
- fused attention and MLP of single blocks (HunyuanVideo, Motif): the attention is a site, the MLP beside it is not;
- text refiners and text blocks: they are not part of the video's denoising;
- LTX-2.3 and HunyuanVideo 1.5 cannot be compiled whole: their own forward branches on a tensor.

Classes without a card are told by their structure; `pabtune models --sites` says what speaks for each kind. To describe your
own, write a card (`docs/models-add.md`):

```python
card = pabtune.ModelCard(
    transformer="MyTransformer3DModel",
    sites=(
        pabtune.SitePattern(blocks="blocks", child="attn", kind="full", feeders=("norm1",)),
        pabtune.SitePattern(blocks="blocks", child="cross_attn", kind="cross"),
        pabtune.SitePattern(blocks="blocks", child="mlp", kind="mlp", feeders=("norm2",)),
    ),
)
with pabtune.broadcast(pipeline, policy, catalog=pabtune.CATALOG.with_card(card)):
    video = pipeline(prompt)
```
"""


def run_tests() -> dict[str, dict[str, set[str]]]:
    """Outcomes by case and test name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", "--show-capture=no", "-m", "not gpu", f"--junitxml={report}"]
        code = subprocess.run([*words, "tests/pipelines"], cwd=ROOT, check=False).returncode
        outcomes: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314, written by pytest just now
            test, _, parameters = case.get("name", "").rstrip("]").partition("[")
            skipped, failed = case.find("skipped") is not None, case.find("failure") is not None
            for name in CASES:
                if (
                    name == parameters
                    or parameters.endswith(f"-{name}")
                    and parameters.removesuffix(f"-{name}") not in CASES
                ):
                    outcomes[name][test].add("skipped" if skipped else "failed" if failed else "ok")
    if code != 0:
        raise SystemExit("some tests failed; the table is not written")
    return outcomes


def row(name: str, outcomes: dict[str, set[str]]) -> str:
    pipeline = CASES[name].build()
    target = Target.of(pipeline)
    kinds = Counter(site.kind for site in target.sites)
    sites = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    fed = dict.fromkeys(feeder.removeprefix(f"{site.block}.") for site in target.sites for feeder in site.feeders)
    cells = []
    for tests in LAWS.values():
        results = {result for test, found in outcomes.items() if test.startswith(tests) for result in found}
        cells.append("ok" if "ok" in results else "n/a" if "skipped" in results else "-")
    classes = f"`{type(pipeline).__name__}`, `{target.model_class}`"
    return f"| {name} | {classes} | {sites} | {', '.join(fed) or '-'} | {' | '.join(cells)} |"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "models.md", show_default=True)
def main(out: Path) -> None:
    outcomes = run_tests()
    told = ", ".join(f"{library} {number}" for library, number in versions().items())
    columns = ["small pipeline", "classes", "sites", "skipped too", *LAWS]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(row(name, outcomes[name]) for name in CASES)]
    shown = {Target.of(case.build()).model_class for case in CASES.values()}
    others = ", ".join(f"`{card.transformer}`" for card in CATALOG if card.transformer not in shown)
    out.write_text(HEAD.format(versions=told) + "\n".join(lines) + "\n" + TAIL.format(others=others), encoding="utf-8")
    click.echo(f"{len(CASES)} pipelines -> {out}")


if __name__ == "__main__":
    main()
