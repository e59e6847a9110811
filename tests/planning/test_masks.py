from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.masks import ComputeMask, resolve, without_idle_rules
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site

SITES = tuple(
    Site(path=f"blocks.{layer}.{kind}", kind=kind, layer=layer, block=f"blocks.{layer}")
    for layer in range(3)
    for kind in ("spatial", "temporal", "cross", "mlp")
)
# The timesteps that the paper's reference sees: 30 steps, 51 frames, 480x854 (facts: pab.md, section 1).
PAPER_TIMESTEPS = (
    1000, 992, 984, 976, 968, 960, 952, 940, 932, 920, 908, 892, 880, 864, 848, 828, 808, 788, 764, 736, 708, 676, 636,
    596, 548, 492, 426, 350, 258, 143,
)  # fmt: skip
PAPER = NoiseSchedule(steps=30, sigmas=tuple(timestep / 1000 for timestep in PAPER_TIMESTEPS))


def row(rule: Rule, schedule: NoiseSchedule, made_for: MadeFor | None = None) -> str:
    """The rule's first site as a string: c = compute, b = broadcast."""
    policy = Policy(name="one", rules=(rule,), made_for=made_for or MadeFor())
    mask = resolve(policy, SITES, schedule)
    index = next(i for i, site in enumerate(SITES) if site.kind == rule.kind)
    return "".join("c" if flag else "b" for flag in mask.compute[index])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(kind="spatial", range=2, window=(2, 8)), "ccbcbcbccc"),
        (Rule(kind="spatial", range=3, window=(2, 8)), "ccbbcbbccc"),
        (Rule(kind="spatial", range=9, window=(2, 8)), "ccbbbbbbcc"),
        (Rule(kind="spatial", range=1, window=(2, 8)), "cccccccccc"),
        (Rule(kind="spatial", range=2, window=(0, 10)), "cbcbcbcbcb"),
        (Rule(kind="spatial", range=3, window=(2, 8), anchor="start"), "ccbcbbcbcc"),
        (Rule(kind="spatial", compute=(0, 4, 9)), "cbbbcbbbbc"),
    ],
)
def test_rules_become_rows(rule: Rule, expected: str) -> None:
    assert row(rule, NoiseSchedule(steps=10)) == expected


@pytest.mark.parametrize(
    ("preset", "broadcast"),
    [
        ("pab246", {"spatial": 9, "temporal": 13, "cross": 14}),
        ("pab357", {"spatial": 11, "temporal": 13, "cross": 15}),
        ("pab579", {"spatial": 13, "temporal": 15, "cross": 15}),
    ],
)
def test_presets_skip_as_often_as_the_papers_reference(preset: str, broadcast: dict[str, int]) -> None:
    calls = resolve(PRESETS[preset], SITES, PAPER).calls(computed=False)
    assert calls == {**{kind: 3 * count for kind, count in broadcast.items()}, "mlp": 0}


def test_layers_choose_rows() -> None:
    policy = Policy(name="some", rules=(Rule(kind="mlp", range=2, window=(1, 5), layers=(0, 2)),))
    mask = resolve(policy, SITES, NoiseSchedule(steps=5))
    skipping = [site.path for site, flags in zip(mask.sites, mask.compute, strict=True) if not flags.all()]
    assert skipping == ["blocks.0.mlp", "blocks.2.mlp"]
    assert mask.compute[:, 0].all()


def test_step_windows_are_carried_by_noise_level() -> None:
    sigmas = tuple(np.linspace(1, 0.1, 10).tolist())
    made_for = MadeFor(steps=10, sigmas=sigmas)
    rule = Rule(kind="spatial", range=99, window=(2, 8))
    twice = NoiseSchedule(steps=20, sigmas=tuple(np.linspace(0.98, 0.03, 20).tolist()))
    assert row(rule, twice, made_for) == "ccc" + "b" * 12 + "c" * 5
    with pytest.raises(PolicyError, match="cannot be carried over; search again with --steps 20"):
        row(rule, NoiseSchedule(steps=20), made_for)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((Rule(kind="full", range=2, window=(1, 3)),), "no 'full' sites; it has: cross, mlp, spatial, temporal"),
        (
            (Rule(kind="mlp", range=2, window=(1, 3), layers=(7,)),),
            "names layer 7, but the model's mlp layers are 0..2",
        ),
        ((Rule(kind="mlp", range=2, window=(1, 3)),) * 2, "two rules are for the same site"),
        ((Rule(kind="mlp", range=2, window=(1, 11)),), "window stops at step 11, but the run has 10 steps"),
        ((Rule(kind="mlp", compute=(0, 10)),), "computes at step 10, but the run has 10 steps"),
        ((Rule(kind="mlp", range=2, noise_window=(0.1, 0.9)),), "does not tell its noise levels"),
    ],
)
def test_policies_that_do_not_fit_are_refused(rules: tuple[Rule, ...], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        resolve(Policy(name="wrong", rules=rules), SITES, NoiseSchedule(steps=10))


def test_listed_steps_are_carried_by_noise_level() -> None:
    sigmas = tuple(np.linspace(1, 0.1, 10).tolist())
    rule, made_for = Rule(kind="spatial", compute=(0, 1, 4, 5, 6, 8, 9)), MadeFor(steps=10, sigmas=sigmas)
    assert row(rule, NoiseSchedule(steps=10, sigmas=sigmas), made_for) == "ccbbcccbcc"
    twice = NoiseSchedule(steps=20, sigmas=tuple(np.linspace(0.98, 0.03, 20).tolist()))
    assert row(rule, twice, made_for) == "ccc" + "bbbb" + "cccccc" + "bb" + "ccccc"
    late = NoiseSchedule(steps=4, sigmas=(0.65, 0.62, 0.5, 0.1))
    assert row(rule, late, made_for) == "cccc", "the first step always computes, and the last where it did"


def test_the_last_step_computes_on_other_schedules_if_it_did_on_its_own() -> None:
    """Rounded by noise level, a broadcast before it reached to the end: what is put out was never computed."""
    sigmas = tuple(np.linspace(1, 0.1, 10).tolist())
    made_for, coarse = MadeFor(steps=10, sigmas=sigmas), NoiseSchedule(steps=4, sigmas=(1.0, 0.6, 0.4, 0.3))
    for rule in (Rule(kind="spatial", range=9, window=(2, 9)), Rule(kind="spatial", compute=(0, 1, 9))):
        assert row(rule, coarse, made_for) == "cbbc"
    open_end = Rule(kind="spatial", range=9, window=(2, 10))
    assert row(open_end, coarse, made_for) == "cbbb"
    at_the_end = NoiseSchedule(steps=4, sigmas=(0.28, 0.27, 0.26, 0.25))  # a window that has only the last step left
    assert row(Rule(kind="spatial", compute=(0, 1, 2, 3, 4, 5, 6, 7, 9)), at_the_end, made_for)[-1] == "c"


def test_a_carried_output_serves_no_longer_than_it_did() -> None:
    """Latte's list on 13 steps: windows of two steps each, which lie side by side there."""
    sigmas = tuple((980 - 20 * step) / 1000 for step in range(50))
    served = {key + further for key in (13, 17, 21, 25, 29) for further in (1, 2)}
    rule = Rule(kind="mlp", compute=tuple(step for step in range(50) if step not in served))
    made_for = MadeFor(steps=50, sigmas=sigmas)
    coarse = tuple(76 * (12 - step) / 1000 for step in range(13))
    assert row(rule, NoiseSchedule(steps=13, sigmas=coarse), made_for) == "cccbbcbbccccc"
    fine = tuple((980 - 10 * step) / 1000 for step in range(98))
    carried = row(rule, NoiseSchedule(steps=98, sigmas=fine), made_for)
    assert carried.count("b") == 15
    assert "bbbb" not in carried
    between = tuple(83 * (11 - step) / 1000 for step in range(12))
    assert row(rule, NoiseSchedule(steps=12, sigmas=between), made_for) == "cccbbcbbcccc"


def test_listed_steps_are_not_carried_without_noise_levels() -> None:
    policy = Policy(name="p", rules=(Rule(kind="mlp", compute=(0, 2)),), made_for=MadeFor(steps=10))
    with pytest.raises(PolicyError, match="cannot be carried over; search again with --steps 12"):
        resolve(policy, SITES, NoiseSchedule(steps=12))


def test_blocks_are_called_with_their_transformer() -> None:
    site = Site(transformer="second", path="blocks.0.attn", kind="full", layer=0)
    block = Site(transformer="second", path="blocks.0", kind="block", layer=0)
    mask = ComputeMask(sites=(site, block), compute=np.array([[True, True, False, False], [True, False, False, True]]))
    runs = mask.where_called(np.array([[False, True, True, True]]))
    assert runs.computes.tolist() == [[False, True, False, False], [False, True, False, True]]
    assert runs.broadcasts.tolist() == [[False, False, True, True], [False, False, True, False]]
    assert runs.inside_blocks().computes.tolist() == [[False, True, False, False]]


def test_a_site_that_its_transformer_does_not_call_neither_computes_nor_broadcasts() -> None:
    sites = tuple(Site(path=f"blocks.{i}.attn", kind="full", layer=i) for i in range(2))
    mask = ComputeMask(sites=sites, compute=np.array([[True, False, False]] * 2))
    runs = mask.where_called(np.array([[True, True, True], [True, False, True]]))
    assert runs.broadcasts.tolist() == [[False, True, True], [False, False, True]]
    assert runs.computes.tolist() == [[True, False, False], [True, False, False]]


def test_a_window_is_carried_to_as_many_steps_of_other_noise_levels() -> None:
    """Fault 27: levels that differ by 0.06 are another schedule, also where the number of steps is the same."""
    sigmas = np.linspace(1, 0.1, 10)
    made_for = MadeFor(steps=10, sigmas=tuple(sigmas.tolist()))
    rule = Rule(kind="spatial", range=99, window=(2, 8))
    assert row(rule, NoiseSchedule(steps=10, sigmas=tuple((sigmas + 1e-5).tolist())), made_for) == "ccbbbbbbcc"
    assert row(rule, NoiseSchedule(steps=10, sigmas=tuple((sigmas - 0.06).tolist())), made_for) == "cbbbbbbccc"


def test_ends_that_compute_keep_a_step_at_least_on_a_shorter_schedule() -> None:
    rule = Rule(kind="spatial", range=99, first=1, last=1)
    assert row(rule, NoiseSchedule(steps=5), MadeFor(steps=50)) == "cbbbc"


def test_a_rule_is_for_the_sites_of_its_transformer() -> None:
    sites = tuple(Site(transformer=name, path="blocks.0", kind="full", layer=0) for name in ("first", "second"))
    policy = Policy(name="p", rules=(Rule(kind="full", range=9, window=(1, 3), transformer="second"),))
    assert resolve(policy, sites, NoiseSchedule(steps=3)).compute.tolist() == [[True] * 3, [True, False, False]]


def test_rules_are_those_of_the_content_class() -> None:
    general, own = (Rule(kind="mlp", range=range_, window=(1, 5)) for range_ in (2, 9))
    policy = Policy(name="p", rules=(general,), variants={"still": (own,)})
    for content, broadcast in ((None, 2), ("still", 4)):
        mask = resolve(policy, SITES, NoiseSchedule(steps=5), content)
        assert mask.calls(computed=False)["mlp"] == 3 * broadcast


def test_rules_that_never_broadcast_are_dropped_and_change_nothing() -> None:
    """A range inside of whole calls is due whenever they compute: it broadcasts nothing that they do not leave out."""
    whole = Rule(kind="transformer", compute=(0, 1, 4, 8))
    idle, busy = Rule(kind="cross", range=2, window=(2, 12)), Rule(kind="mlp", compute=(0, 4))
    sites = (
        Site(transformer="transformer", path="", kind="transformer", layer=0),
        *(Site(transformer="transformer", path=f"b.{kind}", kind=kind, layer=0) for kind in ("cross", "mlp")),
    )
    policy, schedule = Policy(name="p", rules=(whole, idle, busy)), NoiseSchedule(steps=12)
    found = without_idle_rules(policy, sites, schedule)
    assert found.rules == (whole, busy)
    before, after = (resolve(each, sites, schedule) for each in (policy, found))
    assert (before.compute & before.reached == after.compute & after.reached).all()
    assert without_idle_rules(found, sites, schedule) == found
    assert (
        without_idle_rules(
            Policy(name="none", rules=(Rule(kind="mlp", range=1, window=(0, 9)),)), sites, schedule
        ).rules
        == ()
    )


def test_steps_are_known_by_noise_levels_alone() -> None:
    """Without `steps`, numbers of first and last steps were not brought into proportion."""
    sigmas = tuple(np.linspace(1, 1 / 30, 30).tolist())
    short = NoiseSchedule(steps=10, sigmas=sigmas[::3])
    for rule in (Rule(kind="spatial", range=2, first=6, last=6), Rule(kind="spatial", count=15, first=2, last=1)):
        rows = [row(rule, short, MadeFor(steps=steps, sigmas=sigmas)) for steps in (30, None)]
        assert rows[0] == rows[1]
        assert "b" in rows[0]


def test_layers_of_a_rule_for_one_transformer_are_its_own() -> None:
    """Those of another one counted, so that a rule did nothing, in silence."""
    sites = [
        Site(transformer=name, path=f"blocks.{layer}.attn", kind="full", layer=layer)
        for name, layers in (("transformer", 6), ("transformer_2", 3))
        for layer in range(layers)
    ]
    rule = Rule(kind="full", range=2, window=(1, 5), layers=(5,), transformer="transformer_2")
    with pytest.raises(PolicyError, match=r"names layer 5, but transformer_2's full layers are 0\.\.2"):
        resolve(Policy(name="p", rules=(rule,)), sites, NoiseSchedule(steps=6))
    one = replace(rule, transformer="transformer")
    assert not resolve(Policy(name="p", rules=(one,)), sites, NoiseSchedule(steps=6)).compute.all()
