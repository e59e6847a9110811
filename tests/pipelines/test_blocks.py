"""Broadcasting the residual of whole blocks, on real classes, against doing it by hand."""

from collections import defaultdict

import pytest

import pabtune
from pabtune.records.policies import Policy, Rule
from pabtune.runtime.targets import Target
from tests.pipelines.cases import CASES, run

BLOCKS = {
    "open-sora-1.2": ("spatial_blocks", "temporal_blocks"),
    "wan-2.1": ("blocks",),
    "cogvideox-ddim": ("transformer_blocks",),
    "hunyuan-distilled": ("transformer_blocks", "single_transformer_blocks"),
    "ltx": ("transformer_blocks",),
    "ltx-2": ("transformer_blocks",),
    "latte": ("transformer_blocks", "temporal_transformer_blocks"),
    "consisid": ("transformer_blocks",),
}
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.parametrize("name", BLOCKS)]


def policy(steps: int) -> Policy:
    return Policy(name="blocks", rules=(Rule(kind="block", range=2, window=(1, steps), layers=(0,)),))


def test_it_equals_adding_residuals_by_hand(name, load, monkeypatch) -> None:
    pipeline, steps = load(name), CASES[name].call["num_inference_steps"]
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(steps)) as active:
        fast = run(pipeline, name)
        assert (run(pipeline, name) == fast).all()
    assert (fast != plain).any()
    assert (run(pipeline, name) == plain).all()
    assert set(active.summary()["broadcast_calls"]) == {"block"}
    calls_per_step = len({branch for _, branch in CASES[name].branches})
    calls, kept = defaultdict(int), {}

    def by_hand(path, block):
        original = block.forward

        def forward(*args, **kwargs):
            call = calls[path]
            calls[path] += 1
            key, step = (path, call % calls_per_step), call // calls_per_step
            second = "audio_hidden_states" if name == "ltx-2" else "encoder_hidden_states"
            streams = [*args[:2], *(kwargs[each] for each in ("hidden_states", second) if each in kwargs)]
            if step % 2 == 0:
                output = original(*args, **kwargs)
                parts = output if isinstance(output, tuple) else (output,)
                kept[key] = [part - before for part, before in zip(parts, streams, strict=False)]
                return output
            parts = tuple(before + delta for before, delta in zip(streams, kept[key], strict=False))
            return parts if len(parts) > 1 else parts[0]

        return forward

    for path in BLOCKS[name]:
        block = pipeline.transformer.get_submodule(path)[0]
        if path != "single_transformer_blocks":  # its layers go on from those of the other list
            monkeypatch.setattr(block, "forward", by_hand(path, block))
    # Range 2 from a window that opens at 1: every second step, from step 1 on.
    assert (run(pipeline, name) == fast).all()


def test_blocks_are_sites_only_for_policies_that_name_them(name, load) -> None:
    pipeline = load(name)
    target = Target.of(pipeline)
    assert not any(site.kind == "block" for site in target.sites)
    blocks = [site for site in target.with_blocks().sites if site.kind == "block"]
    assert {site.path.rsplit(".", 1)[0] for site in blocks} == set(BLOCKS[name])
    assert target.with_blocks().fingerprint() == target.fingerprint()
