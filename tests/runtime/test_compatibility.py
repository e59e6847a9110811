import re
import warnings

import pytest

import pabtune
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.runtime.compatibility import check_fits, check_steps, differences
from pabtune.runtime.interception import interceptions_of
from pabtune.runtime.targets import Target
from tests.conftest import draw


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy(name="p", rules=(Rule(kind="full", range=2, window=(1, 3)),)), "no 'full' sites"),
        (Policy(name="p", made_for=MadeFor(model="WanTransformer3DModel")), "was made for WanTransformer3DModel"),
        (
            Policy(name="p", made_for=MadeFor(model="STDiT3Transformer3DModel", fingerprint="sha256:" + "0" * 64)),
            "its configuration or sites differ",
        ),
    ],
)
def test_policies_of_another_model_are_refused_before_the_first_step(pipeline, policy, message) -> None:
    with pytest.raises(PolicyError, match=message):
        pabtune.enable(pipeline, policy)
    assert interceptions_of(pipeline.transformer) == []


def test_a_policy_of_another_configuration_says_in_what_it_differs(pipeline) -> None:
    target = Target.of(pipeline)
    config = {"transformer": {**target.config()["transformer"], "depth": 28}}
    made_for = MadeFor(model=target.model_class, fingerprint="sha256:" + "0" * 64, config=config)
    with pytest.raises(PolicyError, match=r"another STDiT3\w+: transformer.depth is 28 there and 2 here; profile and"):
        pabtune.enable(pipeline, Policy(name="p", made_for=made_for))


def test_a_policy_for_this_very_model_fits(pipeline) -> None:
    target = Target.of(pipeline)
    made_for = MadeFor(model=target.model_class, fingerprint=target.fingerprint(), config=target.config())
    check_fits(Policy(name="p", made_for=made_for), target, None)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({}, r"the policy does not tell more"),
        ({"transformer": {"a": 1, "b": 2}}, "^its sites differ$"),
        ({"transformer": {"a": 1, "b": 3}}, r"^transformer.b is 3 there and 2 here$"),
        ({"transformer": {"a": 1}}, r"^transformer.b is None there and 2 here$"),
        ({"transformer": {"a": 1}, "transformer_2": {}}, "it has transformer, transformer_2, this model transformer"),
    ],
)
def test_configurations_are_told_apart_in_words(theirs, words) -> None:
    assert re.search(words, differences(theirs, {"transformer": {"a": 1, "b": 2}}))


def test_many_differences_are_not_all_listed() -> None:
    theirs = {"transformer": {str(key): 0 for key in range(8)}}
    assert differences(theirs, {"transformer": {}}).endswith(" and 3 more")


def test_a_policy_under_as_many_steps_of_other_noise_levels_says_so() -> None:
    """Fault 10: another scheduler or shift is outside of where a policy was measured too."""
    found_at = MadeFor(fingerprint="sha256:" + "0" * 64, steps=4, sigmas=(1.0, 0.75, 0.5, 0.25))
    found = Policy(name="found", rules=(Rule(kind="spatial", range=2, window=(1, 3)),), made_for=found_at)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sigmas in (found_at.sigmas, None):
            check_steps(found, NoiseSchedule(steps=4, sigmas=sigmas), any_steps=False)
    with pytest.warns(PabtuneWarning, match="at 4 steps and is carried to other noise levels"):
        check_steps(found, NoiseSchedule(steps=4, sigmas=(1.0, 0.9, 0.8, 0.5)), any_steps=False)


def test_a_policy_that_was_found_at_other_steps_says_so_and_few_are_refused(pipeline) -> None:
    """Fault 10: carried to 6 steps the shipped policy lost 26.7 points, without a word."""
    target = Target.of(pipeline)
    made_for = MadeFor(fingerprint=target.fingerprint(), steps=30, sigmas=tuple(1 - step / 30 for step in range(30)))
    rule = Rule(kind="transformer", compute=(0, 1, 2, *range(3, 30, 2)))
    found = Policy(name="found", rules=(rule,), made_for=made_for)
    with (
        pabtune.broadcast(pipeline, found),
        pytest.raises(PolicyError, match="at 6 nothing sensible is left of it; search again"),
    ):
        draw(pipeline, num_inference_steps=6)
    with pabtune.broadcast(pipeline, found, any_steps=True), pytest.warns(PabtuneWarning, match="carried to 6"):
        draw(pipeline, num_inference_steps=6)
    with pabtune.broadcast(pipeline, found) as run, pytest.warns(PabtuneWarning, match="carried to 12 by noise level"):
        draw(pipeline, num_inference_steps=12)
    assert 0 < run.summary()["broadcast_calls"]["transformer"] < 6


def test_a_preset_says_that_it_was_not_published_for_so_few_steps(pipeline) -> None:
    """Fault 10: pab246 at 6 steps loses 3.4 points of the shapes score, and was carried there without a word."""
    few, enough = (
        NoiseSchedule(steps=steps, sigmas=tuple(1 - step / steps for step in range(steps))) for steps in (6, 8)
    )
    with pytest.warns(
        PabtuneWarning, match="'pab246' broadcasts .* what it costs in quality at 6 steps was never measured"
    ):
        check_steps(PRESETS["pab246"], few, any_steps=False)
    check_steps(PRESETS["pab246"], few, any_steps=True)
    check_steps(PRESETS["pab246"], enough, any_steps=False)
    check_steps(PRESETS["none"], few, any_steps=False)
