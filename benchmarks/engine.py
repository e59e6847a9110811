"""Speed of the engine against bare diffusers and diffusers' own PAB, as ratios within one run, on a medium-sized Wan.

    python benchmarks/engine.py [--repeats 7] [--device cuda] [--out benchmarks/results/engine.json]

Weights are random, because time does not depend on them. There is one branch, because diffusers' PAB confuses sequential
branches. Prints one JSON document:
- `bare_again`: time of the bare model over itself, the noise of the machine;
- `range_one_microseconds`: time that a policy of range 1 adds to a forward of 6 layers, on a very small model;
- `range_one`: time with a policy that never broadcasts over the bare model's (at most 1.01 is promised);
- `realised_over_promised`: saved time over the measured time of the skipped sites (at least 0.97);
- `over_diffusers_pab`: time with pabtune over time with diffusers' PAB, same sites, ranges and window (at most 1);
- `int8_over_exact`: time with outputs stored in 8 bits over time with outputs stored exactly;
- `int8_error_over_policy_error`: error added by 8 bits over the error of the policy itself;
- `host_over_exact`: time with outputs stored on the host over time with outputs stored exactly (a CPU copies nothing);
- `stored_bytes`: most bytes held, by pabtune and by diffusers' PAB.
"""

import statistics
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, PyramidAttentionBroadcastConfig, WanTransformer3DModel
from measuring import paired_ratios, publish

import pabtune
from pabtune.planning.costs.compute import predicted_seconds
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.policies import Policy, Store
from pabtune.records.rules import Rule
from pabtune.runtime.recorder import Recorder, record
from pabtune.runtime.targets import Target
from pabtune.runtime.timing import now

STEPS = 12
WINDOW = (0.1, 0.95)
RANGES = {"full": 2, "cross": 3}
SIZES = {
    "tiny": ((1, 24), 32, 6, (1, 4, 4)),
    "cpu": ((4, 64), 1024, 6, (5, 32, 32)),
    "cuda": ((12, 128), 8960, 30, (21, 60, 104)),
}
"""(Heads, head width), MLP width, layers, latent size; `cuda` is Wan 2.1 1.3B at 81x480x832."""


class Denoiser:
    """The transformer, its scheduler, and a denoising loop around them."""

    def __init__(self, device: str, size: str | None = None) -> None:
        (heads, width), mlp, layers, self.size = SIZES[size or torch.device(device).type]
        torch.manual_seed(0)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self.transformer = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=width, ffn_dim=mlp, num_layers=layers, text_dim=128
        )  # fmt: skip
        self.transformer.to(device, dtype).eval()
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.device = torch.device(device)
        self.latents = torch.randn(1, 16, *self.size, device=device, dtype=dtype)
        self.text = torch.randn(1, 256, 128, device=device, dtype=dtype)
        self.timestep = 0.0
        self.result = self.latents

    @torch.no_grad()
    def seconds(self) -> float:
        """Seconds of one run."""
        self.scheduler.set_timesteps(STEPS)
        latents = self.latents
        began = now(self.device)
        for step, timestep in enumerate(self.scheduler.timesteps):
            self.timestep = float(timestep)
            with self.transformer.cache_context("cond", step_index=step, num_inference_steps=STEPS):
                velocity = self.transformer(latents, timestep[None].to(latents.device), self.text, return_dict=False)[0]
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        seconds = now(self.device) - began
        self.transformer._reset_stateful_cache()
        self.result = latents
        return seconds


def rules(ranges: dict[str, int], schedule: NoiseSchedule) -> tuple[Rule, ...]:
    """Rules over the steps inside the window, counted from step 0 as diffusers' PAB does."""
    inside = [step for step, level in enumerate(schedule.sigmas or ()) if WINDOW[0] < level < WINDOW[1]]
    window = (inside[0], inside[-1] + 1)
    return tuple(Rule(kind=kind, range=n, window=window, anchor="start") for kind, n in ranges.items())


def promised_saving(model: Denoiser, policy: Policy, schedule: NoiseSchedule) -> float:
    """Fraction of the run time that the skipped sites take, from measured site times."""
    target = Target.of(model.transformer)
    recorder = Recorder(len(target.sites), model.device)
    record(target, recorder, model.seconds)
    recording = recorder.recording()
    mask = resolve(policy, target.sites, schedule)
    steps = recording.step_seconds.numpy()
    return 1 - predicted_seconds(mask, recording.seconds.numpy(), steps) / float(steps.sum())


def savings(model: Denoiser, policy: Policy, schedule: NoiseSchedule, repeats: int) -> tuple[float, float]:
    """Promised and realised fraction of time that the policy saves; medians of alternating measurements."""
    promised, realised = [], []
    for _ in range(repeats):
        promised.append(promised_saving(model, policy, schedule))
        first = model.seconds()
        with pabtune.broadcast(model.transformer, policy):
            accelerated = model.seconds() + model.seconds()
        realised.append(1 - accelerated / (first + model.seconds()))
        promised.append(promised_saving(model, policy, schedule))
    return statistics.median(promised), statistics.median(realised)


@contextmanager
def diffusers_pab(model: Denoiser):
    """Enables diffusers' own PAB with the same ranges and window inside a `with` block."""
    inside = tuple(1000 * level for level in WINDOW)
    model.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=RANGES["full"], spatial_attention_timestep_skip_range=inside,
            cross_attention_block_skip_range=RANGES["cross"], cross_attention_timestep_skip_range=inside,
            spatial_attention_block_identifiers=("blocks.*attn1",), cross_attention_block_identifiers=("blocks.*attn2",),
            current_timestep_callback=lambda: model.timestep,
        )
    )  # fmt: skip
    try:
        yield
    finally:
        model.transformer.disable_cache()


def held_by_diffusers(model: Denoiser) -> int:
    """Bytes in the caches of diffusers' hooks."""
    hooks = [part._diffusers_hook for part in model.transformer.modules() if hasattr(part, "_diffusers_hook")]
    states = [hook.state for registry in hooks for hook in registry.hooks.values() if hasattr(hook, "state")]
    return sum(state.cache.nbytes for state in states if torch.is_tensor(getattr(state, "cache", None)))


def measure(model: Denoiser, policy: Policy, idle: Policy, repeats: int) -> dict[str, float]:
    """Ratio of times of each comparison, by name."""

    def bare() -> float:
        return model.seconds()

    def with_policy(policy: Policy, store: Store = "exact") -> Callable[[], float]:
        def timed() -> float:
            with pabtune.broadcast(model.transformer, policy, store=store):
                return model.seconds()

        return timed

    def with_diffusers() -> float:
        with diffusers_pab(model):
            return model.seconds()

    pairs = {
        "bare_again": (bare, bare),
        "range_one": (with_policy(idle), bare),
        "pab": (with_policy(policy), with_diffusers),
        "int8": (with_policy(policy, "int8"), with_policy(policy)),
        "host": (with_policy(policy, "host"), with_policy(policy)),
    }
    return paired_ratios(pairs, repeats)


def relative_error_of_int8(model: Denoiser, policy: Policy) -> float:
    """Error of the denoised latents from 8-bit storage, over the error from the policy itself."""
    results = []
    for enabled, store in ((None, "exact"), (policy, "exact"), (policy, "int8")):
        with pabtune.broadcast(model.transformer, enabled or Policy(name="none"), store=store):
            model.seconds()
        results.append(model.result.double())
    plain, exact, eight = results
    return float((eight - exact).norm() / (exact - plain).norm())


def added_microseconds(device: str, idle: Policy, runs: int = 30) -> float:
    """Microseconds that a policy of range 1 adds to a forward of a very small model, from the fastest run of each."""
    model = Denoiser(device, "tiny")
    fastest = [float("inf"), float("inf")]
    for _ in range(runs):
        fastest[0] = min(fastest[0], model.seconds())
        with pabtune.broadcast(model.transformer, idle):
            model.seconds()
            fastest[1] = min(fastest[1], model.seconds())
    return (fastest[1] - fastest[0]) / STEPS * 1e6


@click.command()
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(repeats: int, device: str, out: Path | None) -> None:
    model = Denoiser(device)
    model.scheduler.set_timesteps(STEPS)
    schedule = NoiseSchedule(steps=STEPS, sigmas=tuple(float(sigma) for sigma in model.scheduler.sigmas[:STEPS]))
    policy = Policy(name="pab", rules=rules(RANGES, schedule))
    idle = Policy(name="idle", rules=rules({"full": 1, "cross": 1, "mlp": 1}, schedule))
    ratios = measure(model, policy, idle, repeats)
    promised, realised = savings(model, policy, schedule, 2 * repeats)
    with pabtune.broadcast(model.transformer, policy) as run:
        model.seconds()
        held = run.summary()["most_stored_bytes"]
        computed = run.mask.compute.mean()
    with pabtune.broadcast(model.transformer, policy, store="int8") as run:
        model.seconds()
        held_in_int8 = run.summary()["most_stored_bytes"]
    with diffusers_pab(model):
        reset = model.transformer._reset_stateful_cache
        model.transformer._reset_stateful_cache = lambda: None
        model.seconds()
        held_by_pab = held_by_diffusers(model)
        model.transformer._reset_stateful_cache = reset
    document = {
        "bare_again": round(ratios["bare_again"], 4),
        "range_one": round(ratios["range_one"], 4),
        "range_one_microseconds": round(added_microseconds(device, idle), 1),
        "saved": {"promised": round(promised, 4), "realised": round(realised, 4)},
        "realised_over_promised": round(realised / promised, 4),
        "over_diffusers_pab": round(ratios["pab"], 4),
        "int8_over_exact": round(ratios["int8"], 4),
        "host_over_exact": round(ratios["host"], 4),
        "int8_error_over_policy_error": round(relative_error_of_int8(model, policy), 4),
        "stored_bytes": {"pabtune": held, "pabtune_int8": held_in_int8, "diffusers_pab": held_by_pab},
        "computed_share_of_site_calls": round(float(computed), 4),
    }
    publish(document, repeats, device, out)


if __name__ == "__main__":
    main()
