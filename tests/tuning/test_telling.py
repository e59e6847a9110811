"""A content class told by first steps: what is learned from real runs of the embedded model's small classes."""

from dataclasses import replace

import pytest

from pabtune.models.shapes.prompts import sample_prompts
from pabtune.records.errors import StudyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.records.splits import Split
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, batches, generate
from pabtune.tuning.telling import first_latents, fit_first_steps, frame_axis, steps_before_broadcasts
from pabtune.tuning.videos import VideoMeter
from tests.conftest import STEPS
from tests.pipelines.cases import CASES, arguments_of

CONTENTS = ("still", "slow")
POLICY = Policy(
    name="p",
    rules=(Rule(kind="spatial", range=2, window=(3, STEPS)),),
    variants={"still": (Rule(kind="transformer", compute=(0, 1, 3, 5, 7)),)},
    made_for=MadeFor(steps=STEPS),
)


def labelled(part: str, count: int) -> tuple[Prompt, ...]:
    """Prompts of two classes, which the strength of guidance in `Settings` does not tell: seeds do, by chance."""
    return tuple(
        replace(each, content=CONTENTS[index % 2]) for index, each in enumerate(sample_prompts(count, 3, part))
    )


SPLIT = Split(tune=labelled("tune", 8), validate=labelled("validate", 4), test=labelled("test", 8))


def test_as_many_steps_tell_as_compute_whatever_the_class(pipeline) -> None:
    target = Target.of(pipeline)
    assert steps_before_broadcasts(POLICY, target, STEPS) == 2
    assert steps_before_broadcasts(replace(POLICY, variants={}), target, STEPS) == 3
    late = replace(POLICY, variants={}, rules=(Rule(kind="spatial", range=2, window=(6, STEPS)),))
    assert steps_before_broadcasts(late, target, STEPS) == 3
    sigmas = tuple(1 - step / STEPS for step in range(STEPS))
    soon = replace(
        POLICY,
        variants={"slow": (Rule(kind="mlp", range=2, noise_window=(0.1, 0.999)),)},
        made_for=MadeFor(steps=STEPS, sigmas=sigmas),
    )
    assert steps_before_broadcasts(soon, target, STEPS) == 1


def test_only_the_first_steps_run(pipeline) -> None:
    calls, meter = [], VideoMeter(steps=STEPS)
    pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    settings = Settings(steps=STEPS, batch_size=4, meter=meter)
    (latents, *_), target = SPLIT.tune, Target.of(pipeline)
    seen = first_latents(pipeline, target, SPLIT.tune[:4], settings, 2)
    assert len(calls) == 2
    assert [len(each) for each in seen] == [4, 4, 4]
    assert meter.generated == pytest.approx(4 * 2 / STEPS)
    generate(pipeline, [latents], replace(settings, meter=None))
    assert len(calls) == 2 + STEPS  # nothing is left on the model


def test_what_was_fitted_is_what_the_run_tells(pipeline) -> None:
    """The rule of a file decides as the fit did, and fits the prompts that it was fitted to better than chance."""
    settings = Settings(steps=STEPS, batch_size=4)
    rule, accuracy = fit_first_steps(pipeline, POLICY, SPLIT, CONTENTS, settings)
    assert (rule.steps, rule.frame_axis) == (2, 2)
    assert set(rule.numbers) == {"size@2", "step@2", "spread@2", "half@2"}
    assert accuracy.prompts == 8
    again, _ = fit_first_steps(pipeline, POLICY, SPLIT, CONTENTS, settings)
    assert again == rule
    own = fit_first_steps(pipeline, POLICY, replace(SPLIT, test=SPLIT.tune), CONTENTS, settings)[1]
    assert own.right + own.unknown >= 6
    assert fit_first_steps(pipeline, POLICY, SPLIT, ("still",), settings) == (None, None)


def test_prompts_to_test_with_teach_nothing(pipeline) -> None:
    settings = Settings(steps=STEPS, batch_size=4)
    other = replace(SPLIT, test=tuple(replace(each, content="still") for each in SPLIT.test))
    rules = [fit_first_steps(pipeline, POLICY, split, CONTENTS, settings)[0] for split in (SPLIT, other)]
    assert rules[0] == rules[1]


@pytest.mark.parametrize(("name", "axis"), [("wan-2.1", 2), ("cogvideox-ddim", 1), ("ltx", None)])
def test_the_axis_of_frames(name, axis) -> None:
    case = CASES[name]
    pipeline = case.build()
    pipeline.set_progress_bar_config(disable=True)
    target = Target.of(pipeline)
    settings = Settings(steps=case.call["num_inference_steps"], arguments=arguments_of(name))
    (batch,) = batches((Prompt(prompt="a dog runs"),), 1)
    assert frame_axis(target, first_latents(pipeline, target, batch, settings, 1)[0]) == axis


def test_runs_that_do_not_show_their_first_steps_are_refused(pipeline) -> None:
    with pytest.raises(StudyError, match="tell it by the prompt"):
        first_latents(pipeline, Target.of(pipeline), SPLIT.tune[:1], Settings(steps=2), 2)
