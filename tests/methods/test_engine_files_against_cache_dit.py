"""cache-dit's YAML as cache-dit runs it and as pabtune reads it: the same steps compute, and the same video comes out."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline

import pabtune
from pabtune.engines.reading.files import read_configuration
from pabtune.methods.engine_files import engine_policy
from pabtune.methods.scm import TEMPLATES
from pabtune.planning.scm import preset_mask
from pabtune.records.policies import Policy
from pabtune.runtime.engine import Run
from pabtune.runtime.targets import Target
from tests.methods.wan import LAYERS, STEPS, build, draw
from tests.pipelines import wan
from tests.pipelines.cases import CASES
from tests.pipelines.cases import run as run_case

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        find_spec("cache_dit") is None, reason="cache-dit is not installed: pip install 'pabtune[peers]'"
    ),
]
ROUNDING = 2e-5
STATIC = "steps_computation_policy: static"
EARLY = "steps_computation_mask: [1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0]"
LATE = "steps_computation_mask: [1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1]"
TAYLOR = "enable_taylorseer: true"

STATIC_FILES = {
    "held": [EARLY, STATIC],
    "back": [LATE, STATIC, "Bn_compute_blocks: 1"],
    "front": [LATE, STATIC, "Fn_compute_blocks: 2"],
    "series that begins early": [EARLY, STATIC, TAYLOR, "taylorseer_order: 1"],
    "series of order 2": [EARLY, STATIC, TAYLOR, "taylorseer_order: 2"],
    "late series of order 2": [LATE, STATIC, TAYLOR, "taylorseer_order: 2"],
    "preset": ["steps_computation_mask: fast", f"num_inference_steps: {STEPS}", STATIC],
    "all": [f"steps_computation_mask: {[1] * STEPS}", STATIC],
    "limits that count for nothing": [EARLY, STATIC, "max_cached_steps: 1", "max_continuous_cached_steps: 1"],
}
DYNAMIC_FILES = {
    "threshold": ["max_warmup_steps: 2", "residual_diff_threshold: 0.06"],
    "all limits": [
        "max_warmup_steps: 2", "residual_diff_threshold: 0.2", "max_cached_steps: 4", "max_continuous_cached_steps: 2",
    ],
    "sum of changes": [
        "max_warmup_steps: 2", "residual_diff_threshold: 0.2", "max_accumulated_residual_diff_threshold: 0.3"
    ],
    "interval": ["max_warmup_steps: 8", "warmup_interval: 3", "residual_diff_threshold: 0.2"],
    "one decision": ["max_warmup_steps: 2", "residual_diff_threshold: 0.06", "cfg_diff_compute_separate: false"],
    "mask": [EARLY, "residual_diff_threshold: 0.06"],
    "preset": ["steps_computation_mask: slow", f"num_inference_steps: {STEPS}", "residual_diff_threshold: 0.5"],
    "series": ["max_warmup_steps: 1", "residual_diff_threshold: 0.2", TAYLOR, "max_continuous_cached_steps: 2"],
    "series of order 2": ["max_warmup_steps: 1", "residual_diff_threshold: 0.2", TAYLOR, "taylorseer_order: 2"],
    "always": ["max_warmup_steps: 1", "residual_diff_threshold: 1.0", "max_continuous_cached_steps: 3"],
    "never": ["residual_diff_threshold: 0.0"],
}  # fmt: skip


def write(path: Path, lines: list[str]) -> Path:
    fields = ["cache_config:", *(f"  {line}" for line in lines)]
    if not any(line.startswith("Fn_") for line in lines):
        fields.append("  Fn_compute_blocks: 1")
    path.write_text("\n".join(fields), encoding="utf-8")
    return path


def by_cache_dit(pipeline: DiffusionPipeline, path: Path, draws) -> tuple[np.ndarray, list[dict[str, tuple[int, ...]]]]:
    """What the second run of a pipeline under the real client draws, and the held steps of each transformer."""
    import cache_dit  # noqa: PLC0415, only where it is installed

    cache_dit.enable_cache(pipeline, **cache_dit.load_configs(str(path)))
    draws(pipeline)
    frames = draws(pipeline)
    every = cache_dit.summary(pipeline, logging=False)
    cache_dit.disable_cache(pipeline)
    return frames, [{"cond": tuple(each.cached_steps), "uncond": tuple(each.cfg_cached_steps)} for each in every]


def policy_of(pipeline: DiffusionPipeline, path: Path) -> Any:
    configuration = read_configuration(path)
    assert configuration is not None
    return engine_policy(configuration, Target.of(pipeline), STEPS).policy


def computed_by(run: Run) -> tuple[int, ...]:
    """The steps that a fixed policy computes in full."""
    return tuple(np.flatnonzero(run.mask.compute.all(axis=0)).tolist())


@pytest.mark.parametrize("name", STATIC_FILES)
def test_a_static_mask(name, tmp_path) -> None:
    path = write(tmp_path / "cache.yaml", STATIC_FILES[name])
    pipeline = build()
    policy = policy_of(pipeline, path)
    assert isinstance(policy, Policy)
    with pabtune.broadcast(pipeline, policy) as active:
        frames = draw(pipeline)
    expected, (held, *_) = by_cache_dit(build(), path, draw)
    assert held["cond"] == held["uncond"] == tuple(step for step in range(STEPS) if step not in computed_by(active))
    assert not policy.rules or len(held["cond"]) > 3
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", DYNAMIC_FILES)
def test_a_threshold(name, tmp_path) -> None:
    path = write(tmp_path / "cache.yaml", DYNAMIC_FILES[name])
    pipeline = build()
    with pabtune.broadcast(pipeline, policy_of(pipeline, path)) as active:
        frames = draw(pipeline)
    expected, (held, *_) = by_cache_dit(build(), path, draw)
    steps = {branch: tuple(s for s in range(STEPS) if s not in each) for branch, each in held.items()}
    assert {branch: each for (_, branch), each in active.computed_steps.items()} == steps
    assert (len(steps["cond"]) < STEPS) == (name != "never")
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(
    "lines",
    [
        ["steps_computation_mask: [1, 0, 1, 0, 0, 1]", STATIC, TAYLOR],
        ["steps_computation_mask: [1, 1, 0]", STATIC],  # behind its end all steps are held
        ["max_warmup_steps: 2", "residual_diff_threshold: 0.3", "max_continuous_cached_steps: 1"],
    ],
)
def test_two_transformers_count_their_own_steps(lines, tmp_path) -> None:
    def two() -> DiffusionPipeline:
        pipeline = wan.wan22()
        pipeline.transformer = wan.transformer(num_layers=LAYERS)
        pipeline.transformer_2 = wan.transformer(seed=1, num_layers=LAYERS)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def draws(pipeline: DiffusionPipeline) -> np.ndarray:
        return run_case(pipeline, name="wan-2.2", num_inference_steps=STEPS)

    path = write(tmp_path / "cache.yaml", lines)
    pipeline = two()
    with pabtune.broadcast(pipeline, policy_of(pipeline, path)) as active:
        frames = draws(pipeline)
    expected, held = by_cache_dit(two(), path, draws)
    called = {name: {record.step for record in active.records if record.transformer == name} for name in
              ("transformer", "transformer_2")}  # fmt: skip
    for (name, branch), computed in active.computed_steps.items():
        own = [step - min(called[name]) for step in sorted(called[name]) if step not in computed]
        assert tuple(own) == held[("transformer", "transformer_2").index(name)][branch]
        assert 0 < len(own) < len(called[name])
    np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", ["cogvideox-ddim", "ltx", "mochi", "allegro", "hunyuan-1.5", "hunyuan-distilled"])
def test_other_models_that_cache_dit_knows(name, tmp_path) -> None:
    """Text passed along the blocks; a list of dual and one of single blocks, each with a front of its own."""

    def draws(pipeline: DiffusionPipeline) -> np.ndarray:
        return run_case(pipeline, name=name, num_inference_steps=STEPS)

    files = [[LATE, STATIC, TAYLOR, "enable_encoder_taylorseer: true"]]
    if name != "hunyuan-distilled":  # for the two lists of which a threshold decides twice
        files.append(["max_warmup_steps: 2", "residual_diff_threshold: 0.15", "max_continuous_cached_steps: 2"])
    for lines in files:
        path = write(tmp_path / "cache.yaml", lines)
        pipeline = CASES[name].build()
        with pabtune.broadcast(pipeline, policy_of(pipeline, path)):
            frames = draws(pipeline)
        expected, (held, *_) = by_cache_dit(CASES[name].build(), path, draws)
        assert held["cond"] == (4, 6, 7, 9) or lines is not files[0]
        np.testing.assert_allclose(frames, expected, atol=ROUNDING, rtol=0)


def test_presets_are_cache_dits() -> None:
    import cache_dit  # noqa: PLC0415, only where it is installed

    for steps in (4, 6, *range(8, 61)):
        for preset in TEMPLATES:
            expected = cache_dit.steps_mask(total_steps=steps, mask_policy=preset)
            assert preset_mask(preset, steps) == tuple(bool(each) for each in expected), (preset, steps)
