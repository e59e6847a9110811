"""What static methods measure on the small pipeline, and that their policies run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pabtune.methods import pabtune as module
from pabtune.methods.budcache import BudCache
from pabtune.methods.dpcache import DPCache, path_costs
from pabtune.methods.lemica import LeMiCa
from pabtune.methods.method import Recordings
from pabtune.methods.pabtune import FITTED_SEEDS, Pabtune, PabtuneFront
from pabtune.methods.registry import METHODS, check_setting
from pabtune.methods.smoothcache import LOOKAHEAD, SmoothCache
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.runtime.engine import broadcast
from pabtune.runtime.listeners import Measurement
from pabtune.runtime.recorder import record
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.trajectories import LatentsWatch, Trajectories
from pabtune.tuning.videos import VideoMeter
from tests.conftest import PROMPTS, make_pipeline

STEPS = 10


def recordings(count: int = 2) -> Recordings:
    settings = Settings(steps=STEPS, batch_size=2, meter=VideoMeter(steps=STEPS))
    return Recordings(pipeline=make_pipeline(), batches=[PROMPTS[:count]], settings=settings)


class SiteOutputs(Measurement):
    """All outputs of one site, by step."""

    def __init__(self, site: int) -> None:
        self.outputs, self._site, self._step = {}, site, 0

    def begin(self, position, sample):
        self._step = position.step
        return super().begin(position, sample)

    def site(self, index, forward, args, kwargs):
        output = forward(*args, **kwargs)
        if index == self._site:
            self.outputs[self._step] = output.clone()
        return output

    def feeder(self, index, forward, args, kwargs):
        return forward(*args, **kwargs)


def test_smoothcache_measures_relative_l1_differences_as_a_mean_over_layers() -> None:
    made = recordings()
    kinds = SmoothCache().calibrate(made, ())
    sites = made.target.sites
    expected = []
    for index in (index for index, site in enumerate(sites) if site.kind == "cross"):
        seen = SiteOutputs(index)
        record(made.target, seen, lambda: generate(made.pipeline, PROMPTS[:2], made.settings))
        expected.append(float((seen.outputs[5] - seen.outputs[3]).abs().sum() / seen.outputs[5].abs().sum()))
    assert kinds["cross"][1][3] == pytest.approx(np.mean(expected), rel=1e-5)
    assert kinds["cross"][1][STEPS - 2 :] == [None, None]
    assert len(kinds["cross"]) == LOOKAHEAD
    policy = SmoothCache().at(kinds["cross"][0][0], kinds, STEPS)
    assert {rule.kind for rule in policy.rules} <= set(kinds)
    assert all(rule.compute[-1] == STEPS - 1 for rule in policy.rules)


def test_lemica_measures_each_segment_by_the_final_latents() -> None:
    made = recordings(1)
    errors = LeMiCa().calibrate(made, (0.5,))
    watch, full = LatentsWatch(), LatentsWatch()
    generate(made.pipeline, PROMPTS[:1], full.settings(made.settings))
    rule = Rule(kind="stack", compute=tuple(step for step in range(STEPS) if step not in (3, 4)))
    with broadcast(made.pipeline, Policy(name="by hand", rules=(rule,))):
        generate(made.pipeline, PROMPTS[:1], watch.settings(made.settings))
    difference = (watch.after[-1] - full.after[-1]).abs().sum() / full.after[-1].abs().sum()
    assert errors[2][5] == pytest.approx(float(difference), rel=1e-4)
    assert errors[2][3] == 0.0
    assert errors[2][6] is None  # longer than three tenths of the steps
    policy = LeMiCa().at(0.5, errors, STEPS)
    assert len(policy.rules[0].compute) == 5
    assert (policy.rules[0].compute[0], policy.rules[0].compute[-1]) == (0, STEPS - 1)


def test_budcache_finds_no_worse_masks_than_an_even_one_and_counts_its_videos(monkeypatch) -> None:
    monkeypatch.setattr("pabtune.methods.budcache.ITERATIONS", 30)
    monkeypatch.setattr("pabtune.methods.budcache.ROUNDS", 1)
    made = recordings(1)
    found = BudCache().calibrate(made, (0.5,))
    assert list(found) == ["5"]
    assert len(found["5"]) == 5
    assert found["5"][0] == 0
    assert 1 < made.settings.meter.generated <= 1 + 1 + 30 + 20
    assert BudCache().at(0.5, found, STEPS).rules[0].kind == "stack"


def test_dpcache_runs_what_it_forecasts() -> None:
    """In a run under its policy the first forecast is the line through the outputs of the full run."""
    made = recordings()
    found = DPCache().calibrate(made, (0.5,))
    policy = DPCache().at(0.5, found, STEPS)
    rule = policy.rules[0]
    assert len(rule.compute) == 5
    assert rule.compute[:3] == (0, 1, 2)
    assert made.bytes > 0
    costs = path_costs(made.trajectories[0].outputs)
    line = 2 * made.trajectories[0].outputs[2] - made.trajectories[0].outputs[1]
    assert costs[1, 2, 3] == pytest.approx(float((line - made.trajectories[0].outputs[3]).abs().mean()), rel=1e-5)
    with broadcast(made.pipeline, policy) as run:
        generate(made.pipeline, PROMPTS[:2], made.settings)
    assert run.summary()["computed_calls"]["transformer"] == 5
    assert torch.isfinite(torch.tensor(rule.factors[-1] or (0.0,))).all()


def test_pabtune_fits_schedules_on_the_recorded_runs() -> None:
    made = recordings()
    found = Pabtune().calibrate(made, (0.5, 0.7))
    assert set(found) == {"5", "7"}
    assert len(Pabtune().at(0.7, found, STEPS).rules[0].compute) == 7


def test_pabtune_fits_each_prompt_with_several_seeds(monkeypatch) -> None:
    """The first ones are the calibration prompts' own; all that was recorded is counted."""
    fitted: list[tuple[list[list[Prompt]], list[Trajectories]]] = []
    monkeypatch.setattr(
        module, "find_schedules", lambda pipeline, batches, *_, runs, **__: fitted.append((batches, runs)) or []
    )
    made = recordings()
    assert Pabtune().calibrate(made, (0.5,)) == {}
    ((batches, runs),) = fitted
    assert batches[: len(made.batches)] == made.batches
    assert [list(run.prompts) for run in runs] == batches
    own = [(each.prompt, each.seed) for batch in made.batches for each in batch]
    every = [(each.prompt, each.seed) for batch in batches for each in batch]
    assert [prompt for prompt, _ in every] == [prompt for prompt, _ in own] * FITTED_SEEDS
    assert len(set(every)) == len(every) == len(own) * FITTED_SEEDS
    assert made.bytes == sum(tensor.nbytes for run in runs for tensor in (*run.latents, *run.outputs))
    assert made.settings.meter.generated == len(every)


def test_a_front_is_a_folder_of_policies(tmp_path) -> None:
    first = Policy(name="a", rules=(Rule(kind="transformer", compute=(0, 2)),))
    for policy in (first, replace(first, name="b")):
        policy.save(tmp_path / f"{policy.name}.json")
    (tmp_path / ".a-killed.json").write_text('{"schema": "pab')  # what a killed search left half written
    front = PabtuneFront.load([tmp_path])
    assert front.settings == (1, 2)
    assert front.at(2, None, 4).name == "b"
    assert front.misfit(Target.of(make_pipeline())) is None
    other = replace(first, rules=(Rule(kind="full", range=2, window=(1, 3)),))
    assert "no 'full' sites" in PabtuneFront([other]).misfit(Target.of(make_pipeline()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyError, match="holds no policy files"):
        PabtuneFront.load([tmp_path / "empty"])


def test_every_default_setting_is_in_the_range_of_its_knob() -> None:
    for method in METHODS.values():
        for setting in method.settings:
            check_setting(method, setting)
