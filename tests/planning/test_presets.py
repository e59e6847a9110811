import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import PNDMScheduler

from pabtune.planning.masks import resolve
from pabtune.planning.presets import MODEL_PRESETS, PRESET_LINES, PRESETS, find_policy
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.sites import Site


def sites(depth: int, *kinds: str) -> tuple[Site, ...]:
    """As many spatial as temporal blocks, each with an MLP; cross-attention in `cross` lists of them."""
    places = [("spatial", "s.{}.attn"), ("temporal", "t.{}.attn")]
    places += [(kind, f"{path}.{{}}.{kind}") for kind in ("mlp", "cross") for path in "st"]
    found = [
        Site(path=path.format(i), kind=kind, layer=i, block=path.format(i).rpartition(".")[0])
        for kind, path in places
        for i in range(depth)
    ]
    return tuple(found)


def skipped(policy: Policy, schedule: NoiseSchedule) -> dict[str, dict[int, list[int]]]:
    """Broadcast steps per kind and layer."""
    mask = resolve(policy, (*sites(8), *units_of(policy, sites(8))), schedule)
    steps: dict[str, dict[int, list[int]]] = {}
    for site, row in zip(mask.sites, mask.compute, strict=True):
        if not row.all():
            steps.setdefault(site.kind, {})[site.layer] = [step for step, flag in enumerate(row) if not flag]
    return steps


def own_schedule(model: str) -> NoiseSchedule:
    made_for = next(iter(MODEL_PRESETS[model].values())).made_for
    return NoiseSchedule(steps=made_for.steps, sigmas=made_for.sigmas)


def test_digits_are_spatial_temporal_cross() -> None:
    for name in ("pab246", "pab357", "pab579"):
        ranges = {rule.kind: rule.range for rule in PRESETS[name].rules}
        assert "pab" + "".join(str(ranges[kind]) for kind in ("spatial", "temporal", "cross")) == name
        assert {rule.noise_window for rule in PRESETS[name].rules} == {(0.45, 0.93)}
    assert not PRESETS["none"].rules
    assert set(PRESETS) == set(PRESET_LINES)


def test_names_and_files(tmp_path: Path) -> None:
    assert find_policy("pab246") is PRESETS["pab246"]
    assert find_policy("pab246", "shapes") is PRESETS["pab246"]
    assert find_policy("pab246", "open-sora-1.2") is MODEL_PRESETS["open-sora-1.2"]["pab246"]
    assert find_policy("latte/pab236", "open-sora-1.2") is MODEL_PRESETS["latte"]["pab236"]
    assert find_policy("none", "latte") is PRESETS["none"]
    Policy(name="mine").save(tmp_path / "mine.json")
    assert find_policy(str(tmp_path / "mine.json"), "latte").name == "mine"
    with pytest.raises(PolicyError, match=r"neither a policy file nor a preset; presets: none, pab246.*latte/tgate"):
        find_policy("pab999")


def test_open_soras_presets_skip_what_the_reference_skips() -> None:
    """Steps counted on the reference; its MLP keys are timesteps 864, 788 and 676."""
    own = own_schedule("open-sora-1.2")
    presets = MODEL_PRESETS["open-sora-1.2"]
    for name, counts in {"pab246": (9, 13, 14), "pab357": (11, 13, 15), "pab579": (13, 15, 15)}.items():
        steps = skipped(presets[name], own)
        assert tuple(len(steps[kind][7]) for kind in ("spatial", "temporal", "cross")) == counts
        assert steps["mlp"] == dict.fromkeys(range(5), [14, 15, 18, 19, 22, 23])
    steps = skipped(presets["tgate"], own)
    assert steps["spatial"][0] == steps["temporal"][7] == [1, 3, 5, 7, 9, 11]
    assert steps["cross"][0] == list(range(13, 30))
    assert skipped(presets["delta-dit"], own) == {"stack": {0: [1, 3, 5]}}


def test_lattes_presets_skip_what_the_reference_skips() -> None:
    own = own_schedule("latte")
    counts = {2: 17, 3: 23, 4: 26, 6: 28, 7: 29, 9: 31}
    for name in ("pab236", "pab347", "pab469"):
        steps = skipped(MODEL_PRESETS["latte"][name], own)
        for kind, digit in zip(("spatial", "temporal", "cross"), name.removeprefix("pab"), strict=True):
            assert len(steps[kind][0]) == counts[int(digit)] if int(digit) in counts else True
        keys = [round(own.sigmas[step - 1] * 1000) for step in steps["mlp"][0][::2]]
        assert keys == [720, 640, 560, 480, 400]
        assert set(steps["mlp"]) == set(range(5))
    assert skipped(MODEL_PRESETS["latte"]["tgate"], own)["cross"][0] == list(range(21, 50))
    assert skipped(MODEL_PRESETS["latte"]["delta-dit"], own) == {"stack": {0: [1]}}


def test_open_sora_plans_presets_skip_what_the_reference_skips() -> None:
    own = own_schedule("open-sora-plan-1.1")
    steps = skipped(MODEL_PRESETS["open-sora-plan-1.1"]["pab246"], own)
    keys = [round(own.sigmas[step - 1] * 1000) for step in steps["mlp"][6][::2]]
    assert keys == list(range(738, 425, -24))
    assert set(steps["mlp"]) == set(range(7))
    scheduler = PNDMScheduler()
    scheduler.set_timesteps(150)
    assert own.sigmas == tuple(timestep / 1000 for timestep in scheduler.timesteps.tolist())
    gated = skipped(MODEL_PRESETS["open-sora-plan-1.1"]["tgate"], own)
    assert gated["cross"][0] == list(range(91, 150))
    assert gated["spatial"][0] == [step for step in range(90) if step % 6]
    assert skipped(MODEL_PRESETS["open-sora-plan-1.1"]["delta-dit"], own) == {"stack": {0: [1]}}


@pytest.mark.parametrize("model", MODEL_PRESETS)
@pytest.mark.parametrize("steps", [20, 25, 50, 100])
@pytest.mark.parametrize("shift", [1.0, 3.0, 9.7])
def test_other_schedules_keep_every_part_of_a_preset(model, steps, shift) -> None:
    """The reference's table of MLP steps silently stops matching on any schedule but its own."""
    levels = [1 - step / steps for step in range(steps)]
    schedule = NoiseSchedule(steps=steps, sigmas=tuple(shift * s / (1 + (shift - 1) * s) for s in levels))
    for name, policy in MODEL_PRESETS[model].items():
        found = skipped(policy, schedule)
        if name.startswith("pab"):
            assert set(found) == {"spatial", "temporal", "cross", "mlp"}, name


def test_importing_the_presets_reads_no_schema() -> None:
    check = "import pabtune.planning.presets; from pabtune.records.files import validator"
    count = subprocess.run(
        [sys.executable, "-c", f"{check}; print(validator.cache_info().currsize)"], capture_output=True, check=True,
        cwd=Path(__file__).parent.parent.parent,
    ).stdout  # fmt: skip
    assert int(count) == 0
