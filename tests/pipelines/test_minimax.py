"""MiniMax-H3 has no `DiffusionPipeline`: its transformer is driven by hand, as its modular blocks drive it."""

import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

import pabtune
from pabtune.catalog import find_card
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PabtuneWarning
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.testing import check_card
from pabtune.testing.oracle import broadcast_by_hand, mask_by_hand
from tests.pipelines import minimax
from tests.pipelines.cases import Aborted

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 6
POLICY = Policy(
    name="both kinds",
    rules=(
        Rule(kind="full", range=2, window=(1, STEPS - 1)),
        Rule(kind="mlp", range=3, window=(1, STEPS), layers=(1,)),
    ),
)


@torch.no_grad()
def drive(transformer, order=("cond", "uncond"), guided_from: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A guided denoising loop over video and audio, one branch after the other."""
    arguments = minimax.forward_arguments()
    video, audio = arguments.pop("hidden_states"), arguments.pop("audio_hidden_states")
    arguments.pop("timestep"), arguments.pop("timestep_indices")
    texts = {"cond": arguments.pop("encoder_hidden_states")}
    texts["uncond"] = torch.zeros_like(texts["cond"])
    for step in range(STEPS):
        clean = (step + 1) / (STEPS + 1)
        times = minimax.forward_arguments(video_timestep=clean, audio_timestep=clean)
        outputs = {}
        for branch in order if step >= guided_from else ("cond",):
            with transformer.cache_context(branch, step_index=step, num_inference_steps=STEPS):
                outputs[branch] = transformer(
                    hidden_states=video, audio_hidden_states=audio, encoder_hidden_states=texts[branch],
                    timestep=times["timestep"], timestep_indices=times["timestep_indices"], return_dict=False,
                    **arguments,
                )  # fmt: skip
        video_cond, audio_cond = outputs["cond"][:2]
        video_uncond, audio_uncond = outputs.get("uncond", outputs["cond"])[:2]
        video = video + 0.1 * (3 * video_cond - 2 * video_uncond)
        audio = audio + 0.1 * (3 * audio_cond - 2 * audio_uncond)
    transformer._reset_stateful_cache()
    return video, audio


def same(one, other) -> bool:
    return all((a == b).all() for a, b in zip(one, other, strict=True))


def test_the_sites_are_found() -> None:
    assert Counter(site.kind for site in Target.of(minimax.transformer()).sites) == minimax.SITES


def test_it_equals_broadcasting_by_hand_and_is_restored() -> None:
    transformer = minimax.transformer()
    plain = drive(transformer)
    assert all(torch.isfinite(part).all() for part in plain)
    with pabtune.broadcast(transformer, POLICY) as run:
        fast = drive(transformer)
        assert same(drive(transformer), fast)
        assert run.stored_bytes == 0
    assert not same(fast, plain)
    assert same(drive(transformer), plain)
    mask = mask_by_hand(POLICY, Target.of(transformer).sites, STEPS)
    with broadcast_by_hand(SimpleNamespace(transformer=transformer), mask, 2) as computed:
        assert same(drive(transformer), fast)
    counts = Counter()
    for (_, site), count in run.computed_calls.items():
        counts[site] += count
    assert counts == computed


@pytest.mark.parametrize("order", [("cond", "uncond"), ("uncond", "cond")])
def test_guidance_differences_of_video_and_audio_in_either_order(order) -> None:
    transformer = minimax.transformer()
    policy = Policy(name="guidance", rules=(Rule(kind="guidance", range=2, window=(2, STEPS)), *POLICY.rules))
    mask = resolve(policy, Target.of(transformer).under(policy).sites, NoiseSchedule(steps=STEPS))
    conditional = order.index("cond")
    with broadcast_by_hand(SimpleNamespace(transformer=transformer), mask, 2, conditional, shares_call=False):
        expected = drive(transformer, order)
    with warnings.catch_warnings(record=True) as said, pabtune.broadcast(transformer, policy) as run:
        warnings.simplefilter("always", PabtuneWarning)
        assert same(drive(transformer, order), expected)
    assert run.summary()["broadcast_calls"]["guidance"] == 2
    assert [each.category for each in said] == [PabtuneWarning] * conditional


def test_a_conditional_call_that_is_broadcast_comes_first_all_the_same() -> None:
    """Guidance begins in a step whose conditional call is broadcast: the unconditional one computes, and nobody is warned."""
    transformer = minimax.transformer()
    rules = (Rule(kind="guidance", compute=(0, 1, 4)), Rule(kind="transformer", compute=(0, 1, 3, 4, 5)))
    with warnings.catch_warnings(), pabtune.broadcast(transformer, Policy(name="late", rules=rules)) as run:
        warnings.simplefilter("error", PabtuneWarning)
        drive(transformer, guided_from=2)
    happened = [(each.step, each.branch) for each in run.records if each.computed is not None]
    assert (2, "cond") not in happened
    assert (2, "uncond") in happened


def test_an_output_that_waits_is_freed_if_the_run_is_stopped() -> None:
    transformer, calls = minimax.transformer(), []

    def stop(*_) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Aborted

    policy = Policy(name="guidance", rules=(Rule(kind="guidance", range=2, window=(2, STEPS)),))
    handle = transformer.register_forward_hook(stop)
    with pabtune.broadcast(transformer, policy) as run:
        with pytest.raises(Aborted):
            drive(transformer)
        handle.remove()
        assert run.stored_bytes == 0
        assert not run._broadcaster.latest.get()._whole_calls._guidance._waiting


def test_its_card_is_true() -> None:
    transformer = minimax.transformer()
    check_card(find_card("MiniMaxH3Transformer3DModel"), transformer, lambda: drive(transformer))


def test_range_one_changes_nothing() -> None:
    transformer = minimax.transformer()
    plain = drive(transformer)
    idle = Policy(name="idle", rules=(Rule(kind="full", range=1, window=(0, STEPS)),))
    with pabtune.broadcast(transformer, idle):
        assert same(drive(transformer), plain)
