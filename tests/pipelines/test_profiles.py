"""Profiles of real pipelines: every one can be measured, and what is measured is what was called."""

import numpy as np
import pytest

import pabtune
from tests.pipelines.cases import CASES, cases

FAST = [
    "wan-2.2", "latte", "open-sora-plan-1.1", "chronoedit-reasoning", "ltx-2.3", "skyreels-v2-forcing-long",
    "skyreels-v2-forcing-asynchronous", "cogvideox-ddim",
]  # fmt: skip
CHANGING = ("chronoedit-reasoning", "skyreels-v2-forcing-long", "skyreels-v2-forcing-asynchronous")
"""The length of their videos changes from step to step."""
pytestmark = pytest.mark.filterwarnings("ignore")


def arguments_of(name: str) -> dict:
    given = ("num_inference_steps", "output_type")
    return {key: value for key, value in CASES[name].call.items() if key not in given}


def profile_of(pipeline, name: str) -> pabtune.Profile:
    steps = CASES[name].call["num_inference_steps"]
    return pabtune.profile(pipeline, ["a cat"], steps, batch_size=1, arguments=arguments_of(name))


@pytest.mark.parametrize("name", cases(FAST, [name for name, case in CASES.items() if case.takes_prompt]))
def test_every_pipeline_can_be_profiled(name, load, tmp_path) -> None:
    pipeline = load(name)
    if name == "allegro":
        pipeline.vae.enable_tiling()  # it decodes in no other way
    profile = profile_of(pipeline, name)
    called, change = profile.arrays["seconds"] > 0, profile.arrays["change"][0].mean(0)
    assert called.any(axis=1).all()
    assert (np.nan_to_num(profile.arrays["change"][..., 0]) == 0).all()
    # What was called in two steps that follow each other can be compared, if it kept its shape.
    both = called[:, 1:] & called[:, :-1]
    if name not in CHANGING and len(profile.branches) < 3:
        assert np.isfinite(change[:, 1:][both]).all()
    assert all(np.isfinite(row["change"]) for row in profile.ranking)
    profile.save(tmp_path / "p.json")
    assert pabtune.Profile.load(tmp_path / "p.json").digest == profile.digest
    assert profile.call.per_step == len({branch for _, branch in CASES[name].branches}) or name in CHANGING


def test_two_steps_of_two_transformers_leave_nothing_to_compare(load) -> None:
    profile = pabtune.profile(
        load("wan-2.2"), ["a cat"], 2, arguments={**arguments_of("wan-2.2"), "guidance_scale": 1.0}
    )
    assert np.isnan(profile.arrays["change"][..., 1]).all()
    assert profile.call.samples == profile.call.per_step == 1
