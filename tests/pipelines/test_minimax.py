"""MiniMax-H3 has no `DiffusionPipeline`: its transformer is driven by hand, as its modular blocks drive it."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

import pabtune
from pabtune.catalog import find_card
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.testing import check_card
from pabtune.testing.oracle import broadcast_by_hand, mask_by_hand
from tests.pipelines import minimax

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
def drive(transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """A guided denoising loop over video and audio, one branch after the other."""
    arguments = minimax.forward_arguments()
    video, audio = arguments.pop("hidden_states"), arguments.pop("audio_hidden_states")
    arguments.pop("timestep"), arguments.pop("timestep_indices")
    texts = {"cond": arguments.pop("encoder_hidden_states")}
    texts["uncond"] = torch.zeros_like(texts["cond"])
    for step in range(STEPS):
        clean = (step + 1) / (STEPS + 1)
        times = minimax.forward_arguments(video_timestep=clean, audio_timestep=clean)
        outputs = []
        for branch, text in texts.items():
            with transformer.cache_context(branch, step_index=step, num_inference_steps=STEPS):
                outputs.append(
                    transformer(
                        hidden_states=video, audio_hidden_states=audio, encoder_hidden_states=text,
                        timestep=times["timestep"], timestep_indices=times["timestep_indices"], return_dict=False,
                        **arguments,
                    )
                )  # fmt: skip
        (video_cond, audio_cond), (video_uncond, audio_uncond) = (each[:2] for each in outputs)
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


def test_its_card_is_true() -> None:
    transformer = minimax.transformer()
    check_card(find_card("MiniMaxH3Transformer3DModel"), transformer, lambda: drive(transformer))


def test_range_one_changes_nothing() -> None:
    transformer = minimax.transformer()
    plain = drive(transformer)
    idle = Policy(name="idle", rules=(Rule(kind="full", range=1, window=(0, STEPS)),))
    with pabtune.broadcast(transformer, idle):
        assert same(drive(transformer), plain)
