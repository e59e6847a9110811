"""The fraction of FLOPs that a run computes, from its calls, against what torch counts."""

import pytest
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import pabtune
from pabtune.libraries.torch_internals import CPU_FLASH_ATTENTION
from pabtune.runtime.flops import computed_fraction, count_flops
from pabtune.runtime.targets import Target
from tests.pipelines.cases import cases, policy, run, transformers_of


def flops_of_calls(pipeline, drawing) -> int:
    """FLOPs of a pipeline's transformers, by torch's counter and hooks of the test's own."""
    total, before = [0], []
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as mode:
        handles = []
        for part in transformers_of(pipeline):
            handles.append(part.register_forward_pre_hook(lambda *_: before.append(mode.get_total_flops())))
            handles.append(part.register_forward_hook(lambda *_: total.append(mode.get_total_flops() - before.pop())))
        drawing()
    for handle in handles:
        handle.remove()
    return sum(total)


def fused(q, k, v, *_, **__) -> int:
    return sdpa_flop_count(q, k, v)


CPU_ATTENTION = {CPU_FLASH_ATTENTION: fused}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", cases(("wan-2.2", "hunyuan-true-cfg", "cogvideox-ddim", "open-sora-1.2")))
def test_what_a_run_computed_is_counted_from_its_calls(name, load) -> None:
    """Fault 7: several transformers, loops and lengths of video; the fraction is that of the FLOPs that torch counts."""
    pipeline = load(name)
    calls = count_flops(Target.of(pipeline), lambda: run(pipeline, name)).calls
    plain = flops_of_calls(pipeline, lambda: run(pipeline, name))
    with pabtune.broadcast(pipeline, policy(name)) as active:
        fast = flops_of_calls(pipeline, lambda: run(pipeline, name))
    assert sum(call.total for call in calls) == plain
    computed = [record.computed for record in active.records]
    assert computed_fraction(calls, computed) == pytest.approx(fast / plain, rel=1e-9)
    assert fast < plain
