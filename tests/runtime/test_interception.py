import copy
import pickle

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook

import pabtune
from pabtune.libraries.diffusers_internals import hook_names
from pabtune.records.errors import ModelError
from pabtune.runtime import interception
from pabtune.runtime.interception import HOOKS, Interception, interceptions_of
from pabtune.runtime.listeners import Measurement
from pabtune.runtime.targets import Target
from tests.conftest import STEPS, draw, pyramid


class Silent(Measurement):
    """A listener that only passes through."""

    def __init__(self) -> None:
        self.calls = []

    def begin(self, position, sample):
        super().begin(position, sample)
        self.calls.append((position.transformer, position.step, position.branch, tuple(sample.shape)))

    def site(self, index, forward, args, kwargs):
        return forward(*args, **kwargs)

    feeder = site


def test_a_listener_hears_every_call(pipeline) -> None:
    plain = draw(pipeline, num_inference_steps=2)
    listener = Silent()
    attached = Interception(Target.of(pipeline), listener)
    assert (draw(pipeline, num_inference_steps=2) == plain).all()
    attached.detach()
    shape = (2, 4, 8, 24, 24)
    assert listener.calls == [("transformer", step, "cond+uncond", shape) for step in (0, 1)]


@pytest.mark.parametrize(
    ("compiled", "compile_it"),
    [
        ("nothing", lambda pipeline: None),
        ("the transformer, in place", lambda pipeline: pipeline.transformer.compile(backend="eager")),
        ("a block", lambda pipeline: pipeline.transformer.spatial_blocks[1].compile(backend="eager")),
        ("the transformer, in a wrapper", lambda pipeline: wrap(pipeline)),
    ],
)
def test_it_is_told_whether_the_model_is_compiled(pipeline, compiled, compile_it) -> None:
    compile_it(pipeline)
    attached = Interception(Target.of(pipeline), Silent())
    assert attached.is_compiled == (compiled != "nothing")
    attached.detach()


def wrap(pipeline) -> None:
    pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")


def test_attaching_twice_is_refused_and_leaves_the_first(pipeline) -> None:
    first = Interception(Target.of(pipeline), Silent())
    with pytest.raises(ModelError, match="already attached"):
        Interception(Target.of(pipeline), Silent())
    assert interceptions_of(pipeline.transformer) == [first]
    first.detach()
    assert interceptions_of(pipeline.transformer) == []


def test_a_failure_while_attaching_leaves_nothing_behind(pipeline, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(interception, "observe", fail)
    with pytest.raises(RuntimeError, match="broken"):
        Interception(Target.of(pipeline), Silent())
    for module in pipeline.transformer.modules():
        assert not any(name.startswith(HOOKS) for name in hook_names(module))
        assert "forward" not in vars(module)


class Counting(ModelHook):
    """Somebody else's hook."""

    calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


@pytest.mark.parametrize("first", ["policy", "other"])
def test_hooks_of_others_outlive_ours(pipeline, first) -> None:
    site = pipeline.transformer.spatial_blocks[0].mlp
    other = Counting()
    expected = draw(pipeline)
    if first == "policy":
        pabtune.enable(pipeline, pyramid())
    HookRegistry.check_if_exists_or_initialize(site).register_hook(other, "other")
    if first == "other":
        pabtune.enable(pipeline, pyramid())
    draw(pipeline)
    pabtune.disable(pipeline)
    other.calls = 0
    assert (draw(pipeline) == expected).all()
    assert other.calls == STEPS
    site._diffusers_hook.remove_hook("other")
    assert (draw(pipeline) == expected).all()


def test_a_pipeline_under_a_policy_says_why_it_cannot_be_pickled(pipeline) -> None:
    """Fault 16: queues between processes pickle; the scheduler can be, the transformer says what to do."""
    with pabtune.broadcast(pipeline, pyramid()):
        assert pickle.loads(pickle.dumps(pipeline.scheduler)).config == pipeline.scheduler.config
        for part in (pipeline, pipeline.transformer, [pipeline.transformer]):
            with pytest.raises(ModelError, match=r"call pabtune\.disable\(pipeline\) first"):
                pickle.dumps(part)
        copied = copy.deepcopy(pipeline)
        assert "__reduce_ex__" in vars(pipeline.transformer)
    plain = draw(pipeline)
    assert (draw(copied) == plain).all()
    assert (draw(pickle.loads(pickle.dumps(pipeline))) == plain).all()
