import time
from itertools import pairwise

import numpy as np
import pytest

import pabtune
from pabtune.catalog import CATALOG, ModelCard
from pabtune.catalog.card import sites_in
from pabtune.planning.windows import ranking_of, windows_of
from pabtune.records.errors import ProfileError
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, generate
from tests.conftest import PROMPTS, STEPS


def test_a_profile_holds_all_that_was_asked_for(profile, pipeline) -> None:
    target = Target.of(pipeline)
    assert profile.sites == target.sites
    assert profile.contents == ("fast", "slow", "still")
    assert profile.branches == ("cond", "uncond")
    assert profile.prompts == {"fast": 1, "slow": 2, "still": 1}
    assert profile.arrays["change"].shape == (3, 2, len(target.sites), STEPS)
    assert (profile.arrays["change"][..., 1:] > 0).all()
    assert (profile.arrays["seconds"] > 0).all()
    assert profile.made_for.fingerprint == target.fingerprint()
    assert profile.made_for.steps == STEPS == len(profile.made_for.sigmas)
    assert (profile.arrays["mse"][..., 1:] > 0).all()
    assert set(windows_of(profile)) == {"fast", "slow", "still", "all"}
    assert {row.kind for row in ranking_of(profile)} == {"spatial", "temporal", "cross", "mlp"}
    assert len(profile.site_bytes) == len(profile.site_int8_bytes) == len(target.sites)
    assert profile.total_flops > sum(profile.site_flops)
    assert profile.overhead > 0
    assert 0 < profile.sketch["median_relative_error"] < 0.3


def test_numbers_do_not_depend_on_the_batch_size(profile, pipeline) -> None:
    alone = pabtune.profile(pipeline, PROMPTS, STEPS, name="small", batch_size=1)
    for measure in ("mse", "change", "distance"):
        np.testing.assert_allclose(alone.arrays[measure], profile.arrays[measure], rtol=2e-2, atol=1e-7)


def test_a_catalog_says_what_is_profiled(pipeline) -> None:
    card = ModelCard(transformer="STDiT3Transformer3DModel", sites=sites_in("spatial_blocks", mlp="mlp"))
    small = pabtune.profile(pipeline, PROMPTS[:1], STEPS, catalog=CATALOG.with_card(card))
    assert [site.path for site in small.sites] == ["spatial_blocks.0.mlp", "spatial_blocks.1.mlp"]


def test_files_round_trip(profile, tmp_path) -> None:
    profile.save(tmp_path / "p.json")
    assert pabtune.Profile.load(tmp_path / "p.json").digest == profile.digest


def test_mse_is_the_mean_squared_difference_of_the_outputs(profile, pipeline) -> None:
    """Fault 27: measured once more by hand: the outputs of one site over the run of one prompt."""
    prompt, outputs = PROMPTS[1], []
    site = profile.sites[0]
    handle = pipeline.transformer.get_submodule(site.path).register_forward_hook(
        lambda module, args, output: outputs.append(output.detach().clone())
    )
    generate(pipeline, [prompt], Settings(steps=STEPS))
    handle.remove()
    content = profile.contents.index(prompt.content)
    for row, name in enumerate(profile.branches):
        branch = [each.chunk(2)[("cond", "uncond").index(name)] for each in outputs]
        expected = [float((now - before).square().mean()) for before, now in pairwise(branch)]
        np.testing.assert_allclose(profile.arrays["mse"][content, row, 0, 1:], expected, rtol=2e-2)


def test_requests_that_make_no_sense_are_refused(pipeline) -> None:
    with pytest.raises(ProfileError, match="at least 2 steps"):
        pabtune.profile(pipeline, PROMPTS, 1)
    with pytest.raises(ProfileError, match="at least one prompt"):
        pabtune.profile(pipeline, [], STEPS)


def test_times_and_sizes_are_those_of_one_prompt(pipeline) -> None:
    """Fault 27: of a batch of two, half; one site waits for 20 ms in every call, however many prompts it is for."""
    site = Target.of(pipeline).sites[0]
    pipeline.transformer.get_submodule(site.path).proj.register_forward_hook(lambda *_: time.sleep(0.02))
    same = [PROMPTS[0], PROMPTS[3]]
    alone, pair = (pabtune.profile(pipeline, same, 4, batch_size=size) for size in (1, 2))
    for name in ("site_bytes", "site_int8_bytes", "call", "seeds", "prompts"):
        assert getattr(alone, name) == getattr(pair, name)
    assert 0.02 <= np.median(alone.arrays["seconds"][0])
    assert 0.01 <= np.median(pair.arrays["seconds"][0]) < 0.019
    assert (pair.arrays["step_seconds"] >= 0.01).all()
    assert pair.arrays["step_seconds"].sum() < alone.arrays["step_seconds"].sum()
