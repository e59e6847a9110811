"""What a profile measures of whole calls on the small pipelines."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pabtune
from pabtune.planning.surrogate import best_schedule, consensus
from pabtune.records.profiles import NO_SENSITIVITY, SENSITIVITY, Profile
from pabtune.records.prompts import Prompt
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, batches
from pabtune.tuning.profile import RecordingTally
from pabtune.tuning.schedules import (
    FIRSTS,
    PROBED_ONCE,
    PROBED_TWICE,
    find_schedules,
    known_surrogate,
    measure_gains,
)
from pabtune.tuning.trajectories import record_trajectories, surrogate_of
from pabtune.tuning.videos import VideoMeter
from tests.conftest import PROMPT, PROMPTS, make_pipeline
from tests.pipelines.cases import CASES, arguments_of

STEPS = 12
EIGHT = [replace(prompt, seed=seed) for seed, prompt in enumerate([*PROMPTS, *PROMPTS])]


@pytest.fixture(scope="module")
def longer() -> Profile:
    return pabtune.profile(make_pipeline(), EIGHT, STEPS, name="longer", batch_size=2)


def test_a_profile_measures_what_full_runs_and_broken_steps_tell(longer) -> None:
    """The same as recording its batches by themselves; of eight prompts the last runs once more."""
    pipeline, settings = make_pipeline(), Settings(steps=STEPS, batch_size=2)
    target, plan = Target.of(pipeline), list(batches(EIGHT, 2))
    runs = [record_trajectories(pipeline, target, batch, settings) for batch in plan]
    assert longer.seeds == tuple(prompt.seed for batch in plan for prompt in batch)
    expected = surrogate_of(runs, [{} for _ in runs])
    for name in ("products", "keeps", "rates"):
        np.testing.assert_allclose(longer.arrays[name], getattr(expected, name), rtol=1e-4, atol=1e-7)
    (place,) = np.argwhere(~np.isnan(longer.arrays["gains"]))
    gains = measure_gains(pipeline, runs[-1], settings, probed=PROBED_ONCE)
    assert place.tolist() == [7, *gains]
    assert longer.arrays["gains"][tuple(place)] == pytest.approx(gains[int(place[1])][-1], rel=1e-3)


def test_it_is_small_and_files_keep_it(longer, tmp_path) -> None:
    assert sum(longer.arrays[name].nbytes for name in SENSITIVITY) == 8 * (8 * STEPS**2 + 8 * STEPS + 2 * STEPS)
    longer.save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again.has_sensitivity
    assert again.digest == longer.digest
    assert (again.arrays["products"] == longer.arrays["products"]).all()


def test_schedules_are_ranked_without_the_model(longer) -> None:
    rng = np.random.default_rng(0)
    schedules = [
        (0, 1, 2, *sorted(rng.choice(np.arange(3, STEPS), size=4, replace=False).tolist())) for _ in range(300)
    ]
    ranked = pabtune.rank_schedules(longer, schedules)
    assert sorted(each.index for each in ranked) == list(range(300))
    assert ranked[0].objective < ranked[-1].objective


def test_one_prompt_of_eight_runs_once_more() -> None:
    probed, few = (
        pabtune.profile(make_pipeline(), EIGHT[:count], STEPS, batch_size=8).arrays["gains"] for count in (8, 7)
    )
    assert np.count_nonzero(~np.isnan(probed)) == 1
    assert np.isnan(few).all()


def test_the_overhead_counts_the_broken_steps() -> None:
    """Half a second more of each second for the recorder; two seconds for probes where all prompts take sixteen."""
    tally = RecordingTally()
    tally.prompts = {"slow": 8}
    tally.note_overhead(2, 4.0, 6.0)
    assert tally.overhead(2.0) == pytest.approx(1.5 + 2.0 / 16.0)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_in_low_precision_prompts_are_probed_as_they_were_recorded(batch_size) -> None:
    """A prompt out of its batch has other bits, as large as the error that is made."""
    pipeline = make_pipeline()
    pipeline.transformer.to(torch.bfloat16)
    pipeline.text_encoder.to(torch.bfloat16)
    profile = pabtune.profile(pipeline, EIGHT, STEPS, batch_size=batch_size)
    assert np.isnan(profile.arrays["gains"]).all() == (batch_size == 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "steps", "reason"),
    [
        pytest.param("hunyuan-1.5", 12, "HunyuanVideo15Pipeline has no callback_on_step_end", marks=pytest.mark.slow),
        ("chronoedit-reasoning", 12, "but the latents are"),
        ("wan-2.1", 6, "fewer than 9 denoising steps"),
    ],
)
def test_where_whole_calls_tell_nothing_the_profile_says_why(name, steps, reason) -> None:
    pipeline = CASES[name].build()
    pipeline.set_progress_bar_config(disable=True)
    profile = pabtune.profile(pipeline, ["a cat"], steps, batch_size=1, arguments=arguments_of(name))
    assert reason in profile.provenance[NO_SENSITIVITY]
    assert not profile.has_sensitivity
    assert set(profile.arrays) == {"mse", "change", "distance", "seconds", "step_seconds"}


def test_a_callback_of_the_users_own_is_called() -> None:
    steps = []

    def callback(pipeline, step, timestep, tensors) -> dict:
        steps.append(step)
        return tensors

    profile = pabtune.profile(
        make_pipeline(), PROMPTS[:1], STEPS, batch_size=1, arguments={"callback_on_step_end": callback}
    )
    assert steps[-STEPS:] == list(range(STEPS))
    assert "callback_on_step_end" in profile.provenance[NO_SENSITIVITY]


def test_two_transformers_are_told_from_the_profile() -> None:
    pipeline = CASES["wan-2.2"].build()
    pipeline.set_progress_bar_config(disable=True)
    prompts = [Prompt(prompt="a cat", seed=seed) for seed in range(2)]
    profile = pabtune.profile(pipeline, prompts, STEPS, batch_size=1, arguments=arguments_of("wan-2.2"))
    run = record_trajectories(
        pipeline, Target.of(pipeline), prompts[:1], Settings(steps=STEPS, arguments=arguments_of("wan-2.2"))
    )
    (takeover,) = run.takeovers
    (ranked,) = pabtune.rank_schedules(profile, [(0, 1, 2)])
    assert ranked.computed == (0, 1, 2, takeover)


def test_a_search_takes_what_was_measured_with_the_same_weights_and_settings(longer) -> None:
    pipeline, settings = make_pipeline(), Settings(steps=STEPS)
    known = known_surrogate(pipeline, longer, settings, None)
    assert known is not None
    assert len(known.products) == 8
    assert len(known_surrogate(pipeline, longer, settings, "slow").products) == 4
    assert known_surrogate(make_pipeline(seed=1), longer, settings, None) is None
    assert known_surrogate(pipeline, longer, replace(settings, arguments={"guidance_scale": 2.0}), None) is None
    assert known_surrogate(pipeline, longer, replace(settings, arguments={"image": object()}), None) is None
    arrays = {name: array for name, array in longer.arrays.items() if name not in SENSITIVITY}
    assert known_surrogate(pipeline, replace(longer, arrays=arrays), settings, None) is None
    unprobed = {**longer.arrays, "gains": np.full_like(longer.arrays["gains"], np.nan)}
    assert known_surrogate(pipeline, replace(longer, arrays=unprobed), settings, None) is None


@pytest.mark.slow
def test_a_search_that_knows_a_profile_makes_half_of_the_broken_steps(longer) -> None:
    """Of two prompts, and of one with nine seeds; not of nine, which are more than the profile has."""
    pipeline, nine = make_pipeline(), [replace(PROMPTS[0], prompt=f"{PROMPT} {index}") for index in range(9)]
    seeds = [PROMPTS[0].reseeded(number) for number in range(9)]
    known = known_surrogate(pipeline, longer, Settings(steps=STEPS), None)
    for prompts, surrogate, probes in ((nine[:2], None, 4), (nine[:2], known, 2), (seeds, known, 2), (nine, known, 4)):
        meter = VideoMeter(steps=STEPS)
        settings = Settings(steps=STEPS, meter=meter)
        assert find_schedules(pipeline, [prompts], settings, shares=(), known=surrogate) == []
        assert meter.generated == len(prompts) * (1 + probes)


def test_what_the_profile_knows_proposes_schedules(longer) -> None:
    """Beside the surrogate of the prompts that are fitted on, whose schedules are others; all are fitted."""
    pipeline, meter = make_pipeline(), VideoMeter(steps=STEPS)
    settings = Settings(steps=STEPS, batch_size=2, meter=meter)
    known = known_surrogate(pipeline, longer, settings, None)
    assert known is not None
    known = replace(known, gains=np.tile(np.linspace(1, 100, STEPS), (8, 1)))  # late errors would matter most
    find_schedules(pipeline, [PROMPTS[:2]], settings, shares=(0.5,), known=known, is_refined=False)
    run = record_trajectories(pipeline, Target.of(pipeline), PROMPTS[:2], Settings(steps=STEPS, batch_size=2))
    own = surrogate_of([run], [measure_gains(pipeline, run, Settings(steps=STEPS, batch_size=2), probed=PROBED_TWICE)])
    groups = [[best_schedule(each, 6, first) for each in (own, known)] for first in FIRSTS if first < 5]
    every = [computed for group in groups for computed in group]
    agreed = {consensus(group) for group in (*groups, every)}
    assert len(set(every)) > len({group[0] for group in groups})
    assert meter.generated == 2 * (1 + 2 + len({*every, *agreed}))
