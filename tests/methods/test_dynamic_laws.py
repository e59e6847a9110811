"""What must hold for every method that decides in a run."""

import copy

import pytest
from diffusers.hooks import HookRegistry

import pabtune
from pabtune.methods.adacache import AdaCache
from pabtune.methods.dbcache import DBCache
from pabtune.methods.easycache import EasyCache
from pabtune.methods.fbcache import FirstBlockCache
from pabtune.methods.magcache import MagCache
from pabtune.methods.method import Recordings
from pabtune.methods.scalingcache import ScalingCache
from pabtune.methods.seacache import SeaCache
from pabtune.methods.teacache import TeaCache
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.deciders import HOLD, DynamicPolicy
from pabtune.runtime.interception import PARALLEL_HOOK, ParallelHook
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings
from tests.conftest import PROMPTS, make_pipeline
from tests.conftest import draw as draw_shapes
from tests.methods.wan import STEPS, build, draw, recordings
from tests.pipelines import wan
from tests.pipelines.cases import abort

pytestmark = pytest.mark.filterwarnings("ignore")
METHODS = [
    AdaCache(),
    DBCache(warm_up=2),
    EasyCache(),
    FirstBlockCache(),
    MagCache(),
    ScalingCache(),
    SeaCache(),
    TeaCache(),
]
GREEDY = {
    "adacache": 50.0,
    "dbcache": 1.0,
    "easycache": 5.0,
    "fbcache": 5.0,
    "magcache": 5.0,
    "scalingcache": 5.0,
    "seacache": 50.0,
    "teacache": 50.0,
}
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@pytest.fixture(scope="module")
def calibrations():
    recorded = recordings(build(), count=2)
    return {method.name: method.calibrate(recorded, method.settings) for method in METHODS}


@every_method
def test_nothing_is_skipped_at_the_knobs_low_end_and_the_model_is_as_before(method, calibrations) -> None:
    pipeline = build()
    plain, state = draw(pipeline), traces(pipeline)
    with pabtune.broadcast(pipeline, method.at(method.knob.low, calibrations[method.name], STEPS)) as active:
        assert (draw(pipeline) == plain).all()
    assert set(active.computed_steps.values()) == {tuple(range(STEPS))}
    assert traces(pipeline) == state
    assert (draw(pipeline) == plain).all()


@every_method
def test_steps_are_skipped_and_each_run_is_like_the_first(method, calibrations) -> None:
    pipeline = build()
    plain = draw(pipeline)
    with pabtune.broadcast(pipeline, method.at(GREEDY[method.name], calibrations[method.name], STEPS)) as active:
        fast, steps = draw(pipeline), active.computed_steps
        assert (draw(pipeline) == fast).all()
        assert active.computed_steps == steps
    assert (fast != plain).any()
    assert {name for name, _ in steps} == {"transformer"}
    assert all(0 in each and len(each) < STEPS for each in steps.values())
    assert active.stored_bytes == 0
    assert active.summary()["most_stored_bytes"] > 0


@every_method
@pytest.mark.parametrize("at_call", [1, 4])
def test_an_aborted_run_leaves_nothing(method, at_call, calibrations) -> None:
    pipeline = build()
    steps = wan.CALL["num_inference_steps"]
    with pabtune.broadcast(pipeline, method.at(GREEDY[method.name], calibrations[method.name], steps)) as active:
        before = draw(pipeline, num_inference_steps=steps)
        abort(pipeline, "wan-2.1", at_call)
        assert active.stored_bytes == 0
        assert (draw(pipeline, num_inference_steps=steps) == before).all()


@every_method
def test_a_call_of_another_pipeline_between_two_steps_changes_nothing(method, calibrations) -> None:
    """What its calls counted stayed on the hooks of the stacks, which then looked for a second kept output."""
    pipeline = build()
    other = type(pipeline)(**{**pipeline.components, "scheduler": copy.deepcopy(pipeline.scheduler)})
    other.set_progress_bar_config(disable=True)

    def call_the_other(_pipeline, step, _timestep, tensors):
        if step % 2:
            draw(other, num_inference_steps=2)
        return tensors

    with pabtune.broadcast(pipeline, method.at(GREEDY[method.name], calibrations[method.name], STEPS)):
        alone = draw(pipeline)
        assert (draw(pipeline, callback_on_step_end=call_the_other) == alone).all()


def test_a_run_of_other_steps_than_a_policy_is_for_is_refused() -> None:
    pipeline = build()
    with (
        pabtune.broadcast(pipeline, FirstBlockCache().at(0.1, None, STEPS + 1)),
        pytest.raises(pabtune.PabtuneError, match="for runs of 13 denoising steps, but this run has 12"),
    ):
        draw(pipeline)


@every_method
def test_two_transformers_and_other_models(method) -> None:
    """Wan 2.2's second transformer computes when it takes over; AdaCache says that it looks at one layer only."""
    pipeline = wan.wan22()
    pipeline.set_progress_bar_config(disable=True)
    misfit = method.misfit(Target.of(pipeline))
    assert (misfit is not None) == (method.name == "adacache")
    if misfit is not None:
        return
    own = recordings(pipeline)
    policy = method.at(GREEDY[method.name], method.calibrate(own, method.settings), STEPS)
    with pabtune.broadcast(pipeline, policy) as active:
        draw(pipeline)
    first, second = (active.computed_steps[name, "cond"] for name in ("transformer", "transformer_2"))
    called = [record.step for record in active.records if record.transformer == "transformer_2"]
    assert first[0] == 0
    assert second[0] == called[0]
    assert len(first) + len(second) < STEPS


@every_method
def test_both_branches_in_one_call_and_blocks_that_take_turns(method) -> None:
    pipeline = make_pipeline()
    assert method.misfit(Target.of(pipeline)) is None
    own = Recordings(pipeline=pipeline, batches=[PROMPTS[:1]], settings=Settings(steps=8))
    calibration = method.calibrate(own, method.settings)
    plain = draw_shapes(pipeline)
    with pabtune.broadcast(pipeline, method.at(0.0, calibration, 8)):
        assert (draw_shapes(pipeline) == plain).all()
    with pabtune.broadcast(pipeline, method.at(GREEDY[method.name], calibration, 8)) as active:
        assert (draw_shapes(pipeline) != plain).any()
    (steps,) = active.computed_steps.values()
    assert 0 in steps
    assert len(steps) < 8


def test_a_model_of_one_block_says_that_nothing_is_left() -> None:
    pipeline = wan.wan21()
    pipeline.transformer = wan.transformer(num_layers=1)
    for method in (FirstBlockCache(), DBCache()):
        assert "1 blocks, of which 1 always compute" in method.misfit(Target.of(pipeline))


def test_stacks_that_serve_add_exactly_what_was_kept() -> None:
    """A decider that computes the first step alone: the same as a policy of a stack that computes it alone."""

    class Once:
        def decide(self, moment, seen):
            return HOLD

        def computed(self, moment, watched):
            pass

    pipeline = build()
    for point in ("call", "attention"):
        with pabtune.broadcast(pipeline, DynamicPolicy(name="once", decider=lambda *_: Once(), point=point)):
            dynamic = draw(pipeline)
        with pabtune.broadcast(pipeline, Policy(name="once", rules=(Rule(kind="stack", compute=(0,)),))):
            assert (draw(pipeline) == dynamic).all()


def test_a_compiled_model_is_refused() -> None:
    pipeline = build()
    pipeline.transformer.compile(backend="eager")
    with (
        pabtune.broadcast(pipeline, FirstBlockCache().at(0.1, None, STEPS)),
        pytest.raises(pabtune.PabtuneError, match="do not compile"),
    ):
        draw(pipeline)


def test_a_model_that_is_split_over_processes_is_refused() -> None:
    pipeline = build()
    HookRegistry.check_if_exists_or_initialize(pipeline.transformer).register_hook(ParallelHook(), PARALLEL_HOOK)
    with (
        pabtune.broadcast(pipeline, FirstBlockCache().at(0.1, None, STEPS)),
        pytest.raises(pabtune.PabtuneError, match="would not decide alike"),
    ):
        draw(pipeline)


def test_stores_and_limits_are_refused() -> None:
    with pytest.raises(pabtune.PabtuneError, match="without a limit of memory"):
        pabtune.enable(build(), FirstBlockCache().at(0.1, None, STEPS), store="int8")


def test_an_evaluation_counts_what_was_computed() -> None:
    pipeline, method = make_pipeline(), FirstBlockCache()
    policies = [method.at(0.0, None, 8), method.at(5.0, None, 8)]
    full, fast = pabtune.evaluate(pipeline, policies, PROMPTS[:1], 8, score="none", batch_size=1)
    assert full.compute_fraction == 1.0
    assert full.psnr_db[0] == 100.0
    assert 1 / 8 < fast.compute_fraction < 0.75


def traces(pipeline) -> list[tuple[str, tuple[str, ...]]]:
    """Attributes of every module of the transformer."""
    return [(name, tuple(sorted(vars(module)))) for name, module in pipeline.transformer.named_modules()]


def test_ratios_of_another_guidance_are_refused(calibrations) -> None:
    pipeline = build()
    other = {**calibrations["magcache"], "ratios": calibrations["magcache"]["ratios"][:1]}
    with (
        pabtune.broadcast(pipeline, MagCache().at(0.1, other, STEPS)),
        pytest.raises(
            pabtune.PabtuneError, match="calibrated for transformer/cond, but the run calls transformer/uncond"
        ),
    ):
        draw(pipeline)
