"""A policy beside what users put around a model: batches, offloading, casting, LoRA, other schedulers, other caches."""

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    FlowMatchHeunDiscreteScheduler,
)
from diffusers.hooks import apply_group_offloading
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig

import pabtune
from pabtune.records.errors import ModelError, PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.testing.oracle import broadcast_by_hand, mask_by_hand
from tests.pipelines.cases import CASES, cases, policy, run, transformers_of
from tests.pipelines.parts import OTHER_PROMPT, PROMPT

pytestmark = pytest.mark.filterwarnings("ignore")

FAMILIES = ["wan-2.1", "wan-2.2", "hunyuan-true-cfg", "cogvideox-ddim", "latte", "kandinsky-5", "ltx-2.3", "mochi"]
"""One for each way of attention, guidance and telling the step."""

PROJECTIONS = ["to_q", "to_v", "to_query", "to_value", "qkv"]
"""Names of what makes queries and values, where an adapter goes."""

TAKE_LISTS = [name for name, case in CASES.items() if case.takes_prompt and case.takes_batches]


def fast(pipeline, name, **changes):
    with pabtune.broadcast(pipeline, policy(name)):
        return run(pipeline, name, **changes)


@pytest.mark.parametrize("name", TAKE_LISTS)
def test_a_batch_of_prompts_equals_broadcasting_by_hand(name, load) -> None:
    """No video of a batch is served by another's outputs, and a batch after a single prompt starts anew."""
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        single = run(pipeline, name)
        batch = run(pipeline, name, prompt=[PROMPT, OTHER_PROMPT], seed=[0, 1], **CASES[name].batch)
        assert (run(pipeline, name) == single).all()
        calls = len({branch for _, branch in CASES[name].branches})
    mask = mask_by_hand(policy(name), Target.of(pipeline).sites, active.mask.steps)
    with broadcast_by_hand(pipeline, mask, calls):
        again = run(pipeline, name, prompt=[PROMPT, OTHER_PROMPT], seed=[0, 1], **CASES[name].batch)
        assert (again == batch).all()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.takes_prompt and not case.takes_batches])
def test_who_takes_no_batch_takes_none_without_a_policy_either(name, load) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        run(load(name), name, prompt=[PROMPT, OTHER_PROMPT], seed=[0, 1])


@pytest.mark.parametrize("name", ["wan-2.1", "hunyuan-true-cfg", "cogvideox-ddim", "ltx", "mochi", "allegro"])
def test_several_videos_per_prompt(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        several = run(pipeline, name, num_videos_per_prompt=2)
    mask = mask_by_hand(policy(name), Target.of(pipeline).sites, active.mask.steps)
    with broadcast_by_hand(pipeline, mask, len({branch for _, branch in CASES[name].branches})):
        assert (run(pipeline, name, num_videos_per_prompt=2) == several).all()


@pytest.mark.parametrize("name", cases(FAMILIES))
@pytest.mark.parametrize(
    ("first", "offload_type"),
    [
        ("policy", "block_level"),
        ("offload", "leaf_level"),
        pytest.param("policy", "leaf_level", marks=pytest.mark.slow),
        pytest.param("offload", "block_level", marks=pytest.mark.slow),
    ],
)
def test_group_offload(name, offload_type, first, load) -> None:
    pipeline = load(name)
    expected = fast(pipeline, name)
    plain = run(pipeline, name)
    if first == "policy":
        pabtune.enable(pipeline, policy(name))
    cpu = torch.device("cpu")
    for part in transformers_of(pipeline):
        blocks = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
        apply_group_offloading(part, onload_device=cpu, offload_device=cpu, offload_type=offload_type, **blocks)
    if first == "offload":
        pabtune.enable(pipeline, policy(name))
    assert (run(pipeline, name) == expected).all()
    pabtune.disable(pipeline)
    assert (run(pipeline, name) == plain).all()


@pytest.mark.parametrize("name", cases(FAMILIES))
@pytest.mark.parametrize("first", ["policy", "casting"])
def test_layerwise_casting(name, first, load) -> None:
    def cast(pipeline) -> None:
        for part in transformers_of(pipeline):
            part.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)

    reference = load(name)
    cast(reference)
    expected, plain = fast(reference, name), run(reference, name)
    pipeline = load(name)
    if first == "policy":
        pabtune.enable(pipeline, policy(name))
        cast(pipeline)
    else:
        cast(pipeline)
        pabtune.enable(pipeline, policy(name))
    assert (run(pipeline, name) == expected).all()
    pabtune.disable(pipeline)
    assert (run(pipeline, name) == plain).all()


@pytest.mark.parametrize("name", cases(FAMILIES))
@pytest.mark.parametrize("first", ["policy", "offload"])
def test_model_offload(name, first, load) -> None:
    """The hooks of accelerate, which keep the forward that they find; the CPU stands in for the accelerator."""
    from accelerate import cpu_offload_with_hook

    def offload(pipeline) -> None:
        for part in transformers_of(pipeline):
            cpu_offload_with_hook(part, torch.device("cpu"))

    pipeline = load(name)
    expected, plain = fast(pipeline, name), run(pipeline, name)
    if first == "policy":
        pabtune.enable(pipeline, policy(name))
        offload(pipeline)
    else:
        offload(pipeline)
        pabtune.enable(pipeline, policy(name))
    assert (run(pipeline, name) == expected).all()
    pabtune.disable(pipeline)
    assert (run(pipeline, name) == plain).all()
    assert all(hasattr(part, "_hf_hook") for part in transformers_of(pipeline))


@pytest.mark.parametrize("first", ["policy", "offload"])
def test_offloading_of_whole_models_takes_its_hooks_off_after_every_video(first, load) -> None:
    """And puts them on again: that is no reason to refuse the next video."""
    name = "wan-2.1"
    pipeline = load(name)
    expected, plain = fast(pipeline, name), run(pipeline, name)
    if first == "offload":
        pipeline.enable_model_cpu_offload(device="cpu")
    pabtune.enable(pipeline, policy(name))
    if first == "policy":
        pipeline.enable_model_cpu_offload(device="cpu")
    for _ in range(3):
        assert (run(pipeline, name) == expected).all()
    pabtune.disable(pipeline)
    assert (run(pipeline, name) == plain).all()
    assert (run(pipeline, name) == plain).all()


def test_hooks_that_were_taken_off_with_the_offloading_are_missed_and_come_off_without_harm(load) -> None:
    """Loading a LoRA under sequential offloading removes it, and with it pabtune's hooks: everything computed, in silence.
    And `disable` gave the model the offloading's forward back, which nobody could call any more.
    """
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    name = "wan-2.1"
    pipeline = load(name)
    expected, plain = fast(pipeline, name), run(pipeline, name)
    for is_back in (True, False):
        for part in transformers_of(pipeline):
            cpu_offload(part, torch.device("cpu"))
        pabtune.enable(pipeline, policy(name))
        assert (run(pipeline, name) == expected).all()
        for part in transformers_of(pipeline):
            remove_hook_from_module(part, recurse=True)
            if is_back:
                cpu_offload(part, torch.device("cpu"))
        with pytest.raises(ModelError, match=r"hooks were taken off .* call pabtune.disable"):
            run(pipeline, name)
        pabtune.disable(pipeline)
        assert (run(pipeline, name) == plain).all()
        with pabtune.broadcast(pipeline, policy(name)):
            assert (run(pipeline, name) == expected).all()
        for part in transformers_of(pipeline):
            remove_hook_from_module(part, recurse=True)
    assert (run(pipeline, name) == plain).all()


@pytest.mark.parametrize("name", cases(("wan-2.1", "wan-2.2", "hunyuan-true-cfg", "cogvideox-ddim", "ltx", "mochi")))
@pytest.mark.parametrize("first", ["policy", "lora"])
def test_lora(name, first, load) -> None:
    def add(pipeline) -> None:
        torch.manual_seed(7)
        for part in transformers_of(pipeline):
            part.add_adapter(LoraConfig(r=2, target_modules=PROJECTIONS, init_lora_weights=False))

    reference = load(name)
    if not all(isinstance(part, PeftAdapterMixin) for part in transformers_of(reference)):
        pytest.skip("diffusers has no adapters for this class")
    without = fast(reference, name)
    add(reference)
    expected = fast(reference, name)
    assert (expected != without).any()
    pipeline = load(name)
    if first == "policy":
        pabtune.enable(pipeline, policy(name))
        assert (run(pipeline, name) == without).all()
        add(pipeline)
    else:
        add(pipeline)
        pabtune.enable(pipeline, policy(name))
    assert (run(pipeline, name) == expected).all()


@pytest.mark.parametrize("name", ["wan-2.1", "ltx"])
def test_a_second_cache_is_refused_before_and_after(name, load) -> None:
    pipeline = load(name)
    cache = FirstBlockCacheConfig(threshold=0.1)
    pipeline.transformer.enable_cache(cache)
    with pytest.raises(ModelError, match="another cache is enabled on transformer"):
        pabtune.enable(pipeline, policy(name))
    pipeline.transformer.disable_cache()
    with pabtune.broadcast(pipeline, policy(name)):
        pipeline.transformer.enable_cache(cache)
        with pytest.raises(ModelError, match="another cache was enabled on transformer"):
            run(pipeline, name)
        pipeline.transformer.disable_cache()


@pytest.mark.parametrize("name", ["wan-2.1", "kandinsky-5"])
def test_second_order_schedulers_have_a_step_per_forward(name, load) -> None:
    """Heun calls the model twice per step: its timesteps, and so the policy's steps, are the calls."""
    pipeline = load(name)
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler()
    with pabtune.broadcast(pipeline, policy(name)) as active:
        made = run(pipeline, name, num_inference_steps=4)
    assert active.mask.steps == len(pipeline.scheduler.timesteps) == 7
    assert set(active.computed_calls) == {
        (branch, site.name) for site in active.mask.sites for _, branch in CASES[name].branches
    }
    with broadcast_by_hand(pipeline, mask_by_hand(policy(name), Target.of(pipeline).sites, 7), 2):
        assert (run(pipeline, name, num_inference_steps=4) == made).all()


@pytest.mark.parametrize("name", ["wan-2.2", "wan-2.2-image"])
def test_a_transformer_that_takes_over_is_foreseen_in_the_first_step_and_not_added(name, load) -> None:
    """It holds nothing while the first does: a limit that is enough for one is enough for the run."""
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name), memory=2**40) as active:
        plain = run(pipeline, name)
        needed = int(active.predicted_bytes.max())
    assert active.summary()["most_stored_bytes"] <= needed < 2 * active.summary()["most_stored_bytes"]
    with pabtune.broadcast(pipeline, policy(name), memory=needed):
        assert (run(pipeline, name) == plain).all()
    # Only the one that takes over is too large.
    pipeline.transformer_2 = type(pipeline.transformer_2)(**dict(pipeline.transformer_2.config) | {"num_layers": 8})
    pipeline.transformer_2.eval()
    full = Policy(name="all", rules=(Rule(kind="full", range=2, window=(1, 6)),))
    with pabtune.broadcast(pipeline, full, memory=2**40) as active:
        run(pipeline, name)
        largest = int(active.predicted_bytes.max())
    with pabtune.broadcast(pipeline, full, memory=largest // 2 - 1) as active:
        with pytest.raises(PolicyError, match="more than the limit"):
            run(pipeline, name)
        assert {record.step for record in active.records} == {0}
