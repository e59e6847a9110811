import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook

import pabtune
from pabtune.records.errors import ModelError
from pabtune.runtime.flops import FlopListener
from pabtune.runtime.interception import FEEDER_HOOK, ROOT_HOOK, SITE_HOOK, Interception, find_interception
from pabtune.runtime.targets import Target
from tests.conftest import STEPS, draw, pyramid


class Silent(FlopListener):
    """A listener that only passes through."""

    def __init__(self) -> None:
        self.calls = []

    def begin(self, transformer, moment, shape):
        self.is_paused = False
        self.calls.append((transformer, moment.step, moment.branch, shape))

    def end(self, transformer):
        pass

    def site(self, index, forward, args, kwargs):
        return forward(*args, **kwargs)

    feed = site


def test_a_listener_hears_every_call(pipeline) -> None:
    plain = draw(pipeline, num_inference_steps=2)
    listener = Silent()
    interception = Interception(Target.of(pipeline), listener)
    assert (draw(pipeline, num_inference_steps=2) == plain).all()
    interception.detach()
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
    interception = Interception(Target.of(pipeline), Silent())
    assert interception.is_compiled == (compiled != "nothing")
    interception.detach()


def wrap(pipeline) -> None:
    pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")


def test_attaching_twice_is_refused_and_leaves_the_first(pipeline) -> None:
    first = Interception(Target.of(pipeline), Silent())
    with pytest.raises(ModelError, match="already attached"):
        Interception(Target.of(pipeline), Silent())
    assert find_interception(pipeline.transformer) is first
    first.detach()
    assert find_interception(pipeline.transformer) is None


def test_a_failure_while_attaching_leaves_nothing_behind(pipeline, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(Interception, "_invalidate", fail)
    with pytest.raises(RuntimeError, match="broken"):
        Interception(Target.of(pipeline), Silent())
    names = (ROOT_HOOK, SITE_HOOK, FEEDER_HOOK)
    for module in pipeline.transformer.modules():
        assert (
            not any(name in module._diffusers_hook.hooks for name in names)
            if hasattr(module, "_diffusers_hook")
            else "forward" not in vars(module)
        )


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
