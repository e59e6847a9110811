"""Tables of the Pyramid Attention Broadcast paper (arXiv 2408.12588), with pabtune's results beside the paper's.

    python benchmarks/paper.py [--prompts 24] [--device cuda] [--docs docs/paper.md]

FLOPs and communication are counted at full size on the meta device. Latency is measured at full size on a GPU, if there is
one, with random bfloat16 weights. Quality is measured on the embedded model `shapes`. Results are written to
`benchmarks/results/`, named by hardware and date, and to `docs/paper.md`.
"""

import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import torch
from measuring import paired_ratios
from scores import broadcast_scores

import pabtune
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.models.workloads import PAPER_RUNS, build_workload
from pabtune.planning.masks import resolve
from pabtune.planning.presets import MODEL_PRESETS, PRESETS, find_policy
from pabtune.planning.schedules import NoiseSchedule
from pabtune.quality.fidelity import psnr_db
from pabtune.records.files import save_json, write_atomically
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.rules import Rule
from pabtune.records.sites import Site
from pabtune.runtime.targets import Target
from pabtune.runtime.timing import now
from pabtune.tuning.cost import count_workload, predict_cost
from pabtune.tuning.evaluate import evaluate
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.provenance import versions

ROOT = Path(__file__).parent.parent
STEPS = 30
OPEN_SORA, SIZE = "open-sora-1.2", (51, 480, 854)

PAPER_TFLOPS: Mapping[str, Mapping[str, float]] = {
    "open-sora-1.2": {
        "none": 3230.24, "delta-dit": 3166.47, "tgate": 2818.40, "pab246": 2657.70, "pab357": 2615.15, "pab579": 2558.25,
    },
    "latte": {
        "none": 3439.47, "delta-dit": 3437.33, "tgate": 3059.02, "pab236": 2767.22, "pab347": 2648.45, "pab469": 2576.77,
    },
    "open-sora-plan-1.1": {
        "none": 12032.40, "delta-dit": 12027.72, "tgate": 10663.32, "pab246": 9276.57, "pab357": 8899.32, "pab579": 8551.26,
    },
}  # fmt: skip

TEXT_TOKENS: Mapping[str, tuple[int, int]] = {
    "open-sora-1.2": (12, 18), "latte": (6, 12), "open-sora-plan-1.1": (6, 8),
}  # fmt: skip
"""Tokens of the prompts in the reference's scripts: `sunset over the sea.`, and another one for T-GATE and Delta-DiT."""

PAPER_LATENCY = {"none": 26.54, "delta-dit": 25.87, "tgate": 22.22, "pab246": 19.87, "pab357": 19.35, "pab579": 18.52}
"""Seconds on one H100."""

PAPER_WITHOUT = {"spatial": 1.87, "temporal": 4.08, "cross": 1.11, "mlp": 0.40}
"""Additional seconds on one H100 if one kind is left out of pab246."""

PAPER_GB = {"megatron-sp": (184.63, 104.62), "ulysses": (46.16, 26.16), "dsp": (23.08, 13.08)}
"""GB exchanged by each of 8 GPUs, without and with pab246."""

Row = dict[str, Any]


def flops_rows() -> list[Row]:
    """FLOPs of each method on the paper's models, in the paper's convention and in total."""
    rows = []
    for model, papers in PAPER_TFLOPS.items():
        for name, paper in papers.items():
            tokens = TEXT_TOKENS[model][name in ("tgate", "delta-dit")]
            flops = predict_cost(count_workload(model, *PAPER_RUNS[model], tokens), find_policy(name, model)).flops
            rows.append(
                {
                    "model": model,
                    "method": name,
                    "paper": paper,
                    "pabtune": round(flops.paper_tflops, 2),
                    "difference %": round(100 * (flops.paper_tflops / paper - 1), 4),
                    "all products": round(flops.total_tflops, 2),
                }
            )
    return rows


def communication_rows() -> list[Row]:
    """GB that each of 8 GPUs exchanges around temporal attention."""
    counted, rows = count_workload(OPEN_SORA, SIZE, STEPS, 12), []
    for parallel, papers in PAPER_GB.items():
        for name, paper in zip(("none", "pab246"), papers, strict=True):
            layout = ParallelLayout(sequence=8, axis="frames", exchange=parallel)
            sent = predict_cost(counted, find_policy(name, OPEN_SORA), layout=layout).attention
            rows.append(
                {
                    "parallel": parallel,
                    "method": name,
                    "paper GB": paper,
                    "pabtune GB": round(sent.paper_bytes / 1e9, 3),
                    "difference %": round(100 * (sent.paper_bytes / 1e9 / paper - 1), 3),
                    "on the wire GB": round(sent.wire_bytes / 1e9, 3),
                    "messages": sent.messages,
                }
            )
    return rows


def without(kind: str) -> Policy:
    """Open-Sora's `pab246` in which one kind always computes."""
    full = MODEL_PRESETS[OPEN_SORA]["pab246"]
    return replace(full, name=f"without {kind}", rules=tuple(rule for rule in full.rules if rule.kind != kind))


def ablation_rows() -> list[Row]:
    """FLOPs that each kind in pab246 saves; the paper gives seconds."""
    counted = count_workload(OPEN_SORA, SIZE, STEPS, 12)
    base = predict_cost(counted, MODEL_PRESETS[OPEN_SORA]["pab246"]).flops.paper_tflops
    rows = []
    for kind, seconds in PAPER_WITHOUT.items():
        flops = predict_cost(counted, without(kind)).flops.paper_tflops
        rows.append(
            {
                "left out": kind,
                "paper, seconds more": seconds,
                "pabtune, TFLOPs": round(flops, 2),
                "TFLOPs more": round(flops - base, 2),
            }
        )
    return rows


def breakdown_rows() -> list[Row]:
    """Breakdown by operation: FLOPs at full size, measured time on the embedded model."""
    flops = predict_cost(count_workload(OPEN_SORA, SIZE, STEPS, 12), PRESETS["none"]).flops
    profile = Profile.load(ROOT / "profiles" / "shapes-30steps.json")
    total = float(profile.arrays["step_seconds"].sum())
    rows = []
    for kind, tflops in flops.per_kind.items():
        indices = [index for index, site in enumerate(profile.sites) if site.kind == kind]
        rows.append(
            {
                "operation": kind,
                "FLOPs of Open-Sora's transformer %": round(100 * tflops / flops.transformer_tflops, 2),
                "time of shapes' transformer %": round(
                    100 * float(profile.arrays["seconds"][indices].sum()) / total, 2
                ),
            }
        )
    return rows


def quality_rows(pipeline: Any, prompts: Sequence[Any], policies: Mapping[str, Policy]) -> list[Row]:
    """Fidelity and score of policies on the embedded model."""
    named = [replace(policy, name=name) for name, policy in policies.items()]
    rows = []
    for evaluation in evaluate(pipeline, named, prompts, STEPS, batch_size=4):
        document = evaluation.to_document()
        rows.append(
            {
                "policy": evaluation.policy,
                "compute %": round(100 * evaluation.compute_fraction, 2),
                "speed": round(evaluation.speedup, 3),
                "PSNR dB": round(document["fidelity"]["psnr_db"], 2),
                "score drop": round(document["score"]["drop"], 3),
            }
        )
    return rows


def range_policies() -> dict[str, Policy]:
    """Policies for one kind each, with increasing ranges, in the middle of the run."""
    rules = {
        f"{kind} {n}": Rule(kind=kind, range=n, window=(6, 26))  # type: ignore[arg-type]
        for kind in ("spatial", "temporal", "cross", "mlp")
        for n in (2, 4, 6)
    }
    return {name: Policy(name=name, rules=(rule,)) for name, rule in rules.items()}


def window_policies() -> dict[str, Policy]:
    """Policies for all attention at range 3, in windows of six steps at different positions."""
    policies = {}
    for start in (1, 7, 13, 19, 24):
        rules = tuple(Rule(kind=kind, range=3, window=(start, start + 6)) for kind in ("spatial", "temporal", "cross"))
        policies[f"steps {start}..{start + 5}"] = Policy(name="window", rules=rules)
    return policies


def score_rows(pipeline: Any, prompts: Sequence[Any]) -> list[Row]:
    """Broadcasting outputs against broadcasting attention scores under the same mask: time and fidelity."""
    policy, settings = PRESETS["pab246"], Settings(steps=STEPS, batch_size=len(prompts))
    profile = Profile.load(ROOT / "profiles" / "shapes-30steps.json")
    schedule = NoiseSchedule(steps=STEPS, sigmas=profile.made_for.sigmas)
    mask = resolve(policy, Target.of(pipeline).sites, schedule)
    variants: dict[str, Callable[[], Any]] = {
        "nothing": nullcontext,
        "outputs": lambda: pabtune.broadcast(pipeline, policy),
        "scores": lambda: broadcast_scores(pipeline.transformer, mask),
    }
    videos = {}

    def timed(name: str) -> Callable[[], float]:
        def run() -> float:
            with variants[name]():
                generation = generate(pipeline, prompts, settings)
            videos[name] = generation.videos
            return generation.seconds

        return run

    pairs = {name: (timed(name), timed("nothing")) for name in ("outputs", "scores")}
    ratios = paired_ratios(pairs, repeats=5)
    return [
        {
            "broadcast": name,
            "time over plain": round(ratio, 3),
            "PSNR dB": round(statistics.mean(map(psnr_db, videos[name], videos["nothing"])), 2),
        }
        for name, ratio in ratios.items()
    ]


def listed(policy: Policy, sites: Sequence[Site], schedule: NoiseSchedule) -> Policy:
    """The policy with its computed steps listed, because a bare transformer has no noise levels."""
    rules = []
    for rule in policy.rules:
        mask = resolve(replace(policy, rules=(rule,)), sites, schedule)
        row = min(mask.compute, key=sum)
        steps = tuple(step for step, computes in enumerate(row.tolist()) if computes)
        rules.append(Rule(kind=rule.kind, compute=steps, layers=rule.layers))
    return Policy(name=policy.name, rules=tuple(rules))


def latency_rows(device: str) -> list[Row]:
    """Seconds of a run of the full-size transformer with random weights; needs a GPU."""
    if not torch.cuda.is_available():
        missing = {"pabtune": "not measured: no GPU"}
        return [{"method": name, "paper, s on H100": paper, **missing} for name, paper in PAPER_LATENCY.items()]
    workload = build_workload(OPEN_SORA, SIZE, STEPS, 12)
    transformer = workload.transformer.to_empty(device=device)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    inputs = {name: torch.randn(each.shape, device=device).to(each.dtype) for name, each in workload.arguments.items()}
    inputs |= {"height": torch.full((1,), 480.0, device=device), "width": torch.full((1,), 854.0, device=device)}
    target = Target.of(transformer)
    sigmas = workload.schedule.sigmas or ()

    @torch.no_grad()
    def run() -> float:
        began = now(torch.device(device))
        for step, sigma in enumerate(sigmas):
            context = {"step_index": step, "num_inference_steps": STEPS, "sigma": sigma}
            with transformer.cache_context("cond+uncond", **context):
                transformer(**inputs | {"timestep": torch.full((2,), 1000 * sigma, device=device)})
        seconds = now(torch.device(device)) - began
        transformer._reset_stateful_cache()
        return seconds

    rows, plain = [], 0.0
    for name, paper in PAPER_LATENCY.items():
        policy = find_policy(name, OPEN_SORA)
        with pabtune.broadcast(transformer, listed(policy, target.under(policy).sites, workload.schedule)):
            seconds = statistics.median(run() for _ in range(4))
        plain = plain or seconds
        rows.append(
            {
                "method": name,
                "paper, s on H100": paper,
                "paper, speed": round(PAPER_LATENCY["none"] / paper, 2),
                "pabtune, s in the transformer": round(seconds, 2),
                "pabtune, speed": round(plain / seconds, 2),
            }
        )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Markdown table of rows with equal keys."""
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(str(row.get(key, '')) for key in head)} |" for row in rows)])


SECTIONS = {
    "FLOPs per method": "TFLOPs of the paper's runs: Open-Sora 1.2, 51 frames of 480x854, 30 steps; Latte, 16 frames of "
    "512x512, 50 steps; Open-Sora-Plan v1.1, 65 frames of 512x512, 150 steps, for which PNDM makes 159 calls. Text encoder "
    "and VAE are included. For Open-Sora the paper's counter missed the scores of fused attention; for the others it counted "
    "them. Prompt lengths are those in the reference's scripts, as far as the digits show. Unexplained: T-GATE on "
    "Open-Sora-Plan. The settings in the reference's script (gate 90, every 6th step) skip self-attention in 75 steps; the "
    "paper's figure corresponds to 42 steps (10662).",
    "Communication": "Each of 8 GPUs, 16 bits; `paper GB` counts complete messages, `on the wire` the bytes that "
    "leave a GPU, with padding.",
    "Ablation": "`pab246` with one kind always computing. The paper gives latency only.",
    "Latency": "In the paper: the complete run on one H100. Here: the transformer alone, with random bfloat16 weights.",
    "Runtime breakdown": "Distribution of FLOPs at full size, and of time in the embedded model on a CPU.",
    "Outputs or scores": "Broadcasting outputs or scores under the mask of `pab246`, on `shapes`. The paper finds that "
    "broadcasting scores is slower than no broadcast at all.",
    "Ranges and quality": "Each kind alone, window 6..25, on `shapes`: the order matters, not the values.",
    "Window and quality": "All attention at range 3 in six steps, on `shapes`.",
}


@click.command()
@click.option("--prompts", "count", type=click.IntRange(min=4), default=24, show_default=True)
@click.option("--device", default="cuda", show_default=True, help="For latency.")
@click.option("--docs", type=click.Path(path_type=Path))
def main(count: int, device: str, docs: Path | None) -> None:
    pipeline, prompts = pabtune.load_pipeline("shapes"), sample_prompts(count, seed=11)
    tables = {
        "FLOPs per method": flops_rows(),
        "Communication": communication_rows(),
        "Ablation": ablation_rows(),
        "Latency": latency_rows(device),
        "Runtime breakdown": breakdown_rows(),
        "Outputs or scores": score_rows(pipeline, prompts[:4]),
        "Ranges and quality": quality_rows(pipeline, prompts, range_policies()),
        "Window and quality": quality_rows(pipeline, prompts, window_policies()),
    }
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}-cpu"
    name = f"paper-{hardware.lower().replace(' ', '-')}-{datetime.now():%Y-%m-%d}"
    document = {"hardware": hardware, "versions": versions(), "prompts": count, "tables": tables}
    save_json(ROOT / "benchmarks" / "results" / f"{name}.json", document)
    if docs is not None:
        version_text = ", ".join(f"{key} {value}" for key, value in versions().items())
        text = "# The paper's tables\n\nGenerated by `make paper` "
        text += f"(`benchmarks/results/{name}.json`) on {hardware}; {version_text}. Do not edit.\n"
        for title, rows in tables.items():
            text += f"\n## {title}\n\n{SECTIONS[title]}\n\n{markdown(rows)}\n"
        write_atomically(docs, lambda partial: Path(partial).write_text(text, encoding="utf-8"))
    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
