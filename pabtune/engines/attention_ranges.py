"""Pyramid attention broadcast in the words of diffusers and of VideoSys, with a list of what these cannot express.

Both know one range and one interval of timesteps for each kind of attention, counted from step 0 (diffusers 0.42,
`PyramidAttentionBroadcastConfig`; VideoSys, `PABConfig`). How far that is from the policy is counted, not guessed: on the
policy's own schedule, step by step.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from pabtune.engines.engine import Engine
from pabtune.engines.export import Export
from pabtune.engines.reading.configuration import OWN_BLOCKS
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site

TRAINING_TIMESTEPS = 1000
USES = {
    "diffusers": (
        "import json\nfrom diffusers import PyramidAttentionBroadcastConfig\n"
        'arguments = json.load(open("policy.json"))\n'
        "for transformer in ({transformers}):\n"
        "    transformer.enable_cache(PyramidAttentionBroadcastConfig(\n"
        "        **arguments, current_timestep_callback=lambda: pipe.current_timestep))"
    ),
    "videosys": "PABConfig(**arguments), with the arguments of this file",
}
"""How the configurations are used, by engine."""

_ATTENTION = {"spatial": "spatial", "full": "spatial", "temporal": "temporal", "cross": "cross"}


def write(policy: Policy, engine: Engine, content: str | None = None) -> Export:
    """Writes a policy's rules for attention as another library's configuration.

    Args:
        policy: for a known schedule, or with windows in noise levels.
        engine: one of `USES`.
        content: the variant to export.

    Raises:
        PolicyError: two rules are for one site, or the policy does not tell its noise levels.
    """
    to = engine.name
    _check_sites(policy, content)
    document: dict[str, Any] = {}
    is_useful = False
    losses = [f"variant for {name}: export it with --content {name}" for name in policy.variants if name != content]
    for rule in policy.rules_for(content):
        if rule.kind not in _ATTENTION:
            losses.append(f"{rule.kind}: only attention can be named")
        elif rule.layers is not None:
            losses.append(f"{rule.kind} of layers {', '.join(map(str, rule.layers))}: layers cannot be chosen")
        elif rule.range is None:
            losses.append(f"{rule.kind}: an explicit list of steps cannot be named")
        elif rule.payload != "hold" or rule.transformer is not None:
            losses.append(f"{rule.kind}: only the last output can be broadcast, in all transformers alike")
        elif _ATTENTION[rule.kind] in {key.split("_")[0] for key in document}:
            losses.append(f"{rule.kind}: a second rule for {_ATTENTION[rule.kind]} attention cannot be named")
        else:
            low, high = _timesteps(policy, rule)
            document |= _entry(to, _ATTENTION[rule.kind], rule.range, low, high)
            losses += _differences(policy, rule, low, high)
            is_useful |= _broadcasts(policy, rule)
    losses += _losses_of_all(policy, to, document)
    transformers = tuple(policy.made_for.config) or ("transformer",)
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    return Export(
        engine=engine, text=text, document=document, suffix=".json", losses=tuple(losses), is_useful=is_useful,
        use=USES[to].format(transformers=" ".join(f"pipe.{name}," for name in transformers)),
    )  # fmt: skip


def _losses_of_all(policy: Policy, to: str, document: Mapping[str, Any]) -> Iterator[str]:
    """What is lost of every rule that is expressed."""
    if policy.store != "exact":
        yield f"store {policy.store}: outputs are kept as they are"
    if to == "diffusers" and document:
        yield "guidance in separate calls: diffusers' branches share one cache there, see its issue list"
    if len(policy.made_for.config) > 1:
        yield (
            f"{', '.join(policy.made_for.config)}: each counts steps from its own first one there, so that the second one's "
            "ranges begin elsewhere"
        )


def _broadcasts(policy: Policy, rule: Rule) -> bool:
    """Whether a rule broadcasts in any step, as far as its schedule is known."""
    sigmas = policy.made_for.sigmas
    if sigmas is None:
        return rule.range != 1
    return not _mask_of(policy, rule, NoiseSchedule(steps=len(sigmas), sigmas=sigmas)).compute.all()


def _mask_of(policy: Policy, rule: Rule, schedule: NoiseSchedule) -> ComputeMask:
    """The mask of one rule alone."""
    site = Site(path=rule.kind, kind=rule.kind, layer=0)
    alone = Policy(name=policy.name, rules=(replace(rule, transformer=None),), made_for=policy.made_for)
    return resolve(alone, (site,), schedule)


def _check_sites(policy: Policy, content: str | None) -> None:
    """Refuses two rules for one site, which no run takes either."""
    for first, second in combinations(policy.rules_for(content), 2):
        layers_meet = first.layers is None or second.layers is None or set(first.layers) & set(second.layers)
        transformers_meet = first.transformer == second.transformer or None in (first.transformer, second.transformer)
        if first.kind == second.kind and layers_meet and transformers_meet:
            raise PolicyError(f"policy {policy.name!r}: two rules are for the same {first.kind} sites; it cannot run")


def _entry(to: str, kind: str, count: int, low: int, high: int) -> dict[str, Any]:
    if to == "diffusers":
        names = {f"{kind}_attention_block_identifiers": list(OWN_BLOCKS[kind])} if kind in OWN_BLOCKS else {}
        return {
            f"{kind}_attention_block_skip_range": count,
            f"{kind}_attention_timestep_skip_range": [low, high],
            **names,
        }
    return {f"{kind}_broadcast": True, f"{kind}_range": count, f"{kind}_threshold": [low, high]}


def _timesteps(policy: Policy, rule: Rule) -> tuple[int, int]:
    """The open interval of timesteps that holds exactly the window's steps."""
    if rule.noise_window is not None:
        return tuple(round(level * TRAINING_TIMESTEPS) for level in rule.noise_window)  # type: ignore[return-value]
    sigmas = policy.made_for.sigmas
    if sigmas is None:
        raise PolicyError(
            f"policy {policy.name!r} tells its window in steps, but not its noise levels; it cannot be exported"
        )
    first, last = min(rule.first or 0, len(sigmas)), rule.last or 0
    start, stop = rule.window or (first, max(len(sigmas) - last, first))
    edges = [1.0, *((a + b) / 2 for a, b in zip(sigmas, sigmas[1:], strict=False)), 0.0]
    return int(edges[stop] * TRAINING_TIMESTEPS), int(np.ceil(edges[start] * TRAINING_TIMESTEPS))


def _differences(policy: Policy, rule: Rule, low: int, high: int) -> list[str]:
    """In how many steps the other library does something else, on the policy's own schedule."""
    sigmas = policy.made_for.sigmas
    if sigmas is None:
        if rule.anchor != "window":
            return []
        return [
            f"{rule.kind}: ranges there count from step 0, not from the window; in how many steps that differs is not known "
            "without the policy's noise levels"
        ]
    ours = _mask_of(policy, rule, NoiseSchedule(steps=len(sigmas), sigmas=sigmas))
    theirs = [
        step % rule.range == 0 or not low < int(sigma * TRAINING_TIMESTEPS) < high  # type: ignore[operator]
        for step, sigma in enumerate(sigmas)
    ]
    differ = int(np.count_nonzero(ours.compute[0] != np.array(theirs)))
    if not differ:
        return []
    return [
        f"{rule.kind}: {differ} of {len(sigmas)} steps differ, as ranges there count from step 0, not from the window"
    ]
