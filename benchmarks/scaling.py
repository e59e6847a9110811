"""Predicted scaling of Open-Sora 1.2 over GPUs, beside the measurements of the paper.

    python benchmarks/scaling.py [--out benchmarks/results/scaling.json]

The rate of a GPU is calibrated on the paper's one-GPU row without a policy. For the other rows there are two predictions: all
work is split, or the VAE decodes on one GPU while the others wait.
"""

import json
from pathlib import Path

import click

from pabtune.planning.costs.latency import Rates
from pabtune.planning.presets import find_policy
from pabtune.records.files import save_json
from pabtune.records.interconnects import INTERCONNECTS
from pabtune.records.layouts import ParallelLayout, SequenceParallel
from pabtune.tuning.cost import Device, count_workload, predict_cost
from pabtune.tuning.provenance import versions

MODEL, SIZE, STEPS = "open-sora-1.2", (204, 480, 854), 30
"""8 seconds at 24 frames per second."""

PAPER: tuple[tuple[str, int, SequenceParallel, float], ...] = (
    ("none", 1, "dsp", 97.51),
    ("pab246", 1, "dsp", 71.25),
    ("none", 8, "megatron-sp", 17.17),
    ("pab246", 8, "megatron-sp", 14.78),
    ("none", 8, "ulysses", 12.34),
    ("pab246", 8, "ulysses", 9.85),
    ("none", 8, "dsp", 12.01),
    ("pab246", 8, "dsp", 9.29),
)
"""Policy, number of H100s, sequence parallelism, measured seconds."""


def predictions(link: str) -> list[dict]:
    """Predictions for each row of the paper."""
    counted = count_workload(MODEL, SIZE, STEPS)
    serial = counted.parts["vae_decoder"].total
    rate = predict_cost(counted, find_policy("none")).flops.total_tflops * 1e12 / PAPER[0][-1]
    device = Device(rates=Rates.even(rate), interconnect=INTERCONNECTS[link])
    rows = []
    for index, (name, gpus, parallel, measured) in enumerate(PAPER):
        policy, layout = find_policy(name, MODEL), ParallelLayout(sequence=gpus, exchange=parallel).along("frames")
        latency = predict_cost(counted, policy, layout=layout, device=device).latency
        assert latency is not None
        row = {"policy": name, "gpus": gpus, "parallel": parallel, "paper_s": measured}
        for title, waiting in (("all_shared_s", 0.0), ("decoder_alone_s", serial / rate * (1 - 1 / gpus))):
            seconds = latency.seconds + waiting
            row[title] = round(seconds, 2)
            if index:
                row[f"{title.removesuffix('_s')}_error_%"] = round(100 * (seconds / measured - 1), 1)
        rows.append(row | {"is": "prediction" if index else "calibration"})
    return rows


@click.command()
@click.option("--link", type=click.Choice(list(INTERCONNECTS)), default="nvlink", show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(link: str, out: Path | None) -> None:
    document = {
        "model": MODEL,
        "size": SIZE,
        "steps": STEPS,
        "link": link,
        "rows": predictions(link),
        "versions": versions(),
    }
    if out is not None:
        save_json(out, document)
    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
