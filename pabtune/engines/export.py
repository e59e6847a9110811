"""An export: the file for an engine, and what stands above it for people."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pabtune.engines.engine import Engine
from pabtune.engines.plan import Plan
from pabtune.engines.predicting import predicted_shares
from pabtune.engines.step_masks import StepMask
from pabtune.records.errors import one_line
from pabtune.records.policies import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A policy as an engine takes it.

    Attributes:
        engine: the engine.
        text: content of the file.
        document: the same as data.
        use: how the file is used, a command or lines of Python to paste.
        suffix: of the file's name.
        losses: what the engine does otherwise, in words; empty = it does exactly what the policy says.
        masks: what it is to do, by transformer; empty = no masks.
        facts: what the file is for, line by line.
        shares: predicted time of the policy, and of what the engine runs, over that of the full run; None = unknown.
        is_useful: whether anything is held.
    """

    engine: Engine
    text: str
    document: Mapping[str, Any]
    use: str
    suffix: str
    losses: tuple[str, ...] = ()
    masks: tuple[StepMask, ...] = ()
    facts: tuple[str, ...] = ()
    shares: tuple[float, float] | None = None
    is_useful: bool = True

    def in_file(self, name: str) -> "Export":
        """The export, which tells how a file of this name is used; without a name of its own it is `policy`."""
        written, stem = f"policy{self.suffix}", name.removesuffix(self.suffix)

        def renamed(text: str) -> str:
            return text.replace(written, name).replace("from policy import", f"from {stem} import")

        return replace(self, text=renamed(self.text), use=renamed(self.use))

    def to_document(self) -> dict[str, Any]:
        """The export as JSON."""
        return {
            "to": self.engine.name,
            "engine_version": self.engine.version,
            "config": dict(self.document),
            "exact": not self.losses,
            "not_expressed": list(self.losses),
            "computed_steps": {mask.transformer: list(mask.computed_steps) for mask in self.masks},
            "facts": list(self.facts),
            "use": self.use,
            **(
                {}
                if self.shares is None
                else {"predicted_time": dict(zip(("policy", "engine"), self.shares, strict=True))}
            ),
        }


def export_of(plan: Plan, document: Mapping[str, Any], text: str, use: str, suffix: str) -> Export:
    """The export of a plan.

    Args:
        plan: what the engine is to do.
        document: the configuration.
        text: of the file, without the header.
        use: a command or lines of Python to paste.
        suffix: of the file's name.
    """
    return Export(
        engine=plan.engine, text=text, document=document, use=use, suffix=suffix, losses=plan.losses, masks=plan.masks,
        facts=facts_of(plan), shares=shares_of(plan), is_useful=plan.held > 0,
    )  # fmt: skip


def header(plan: Plan, use: str) -> str:
    """What a person who opens the file must know, as comments, of which none goes on in the next line.

    Args:
        plan: what the engine is to do.
        use: how the file is used.
    """
    lines = [*facts_of(plan), *(f"not expressed: {each}" for each in plan.losses)]
    if not plan.losses:
        lines.append("exact: the engine does what the policy says")
    uses = [f"use: {line}" if index == 0 else f"     {line}" for index, line in enumerate(use.splitlines())]
    return "".join(f"# {line}\n" for line in [*map(one_line, lines), *uses])


def facts_of(plan: Plan) -> tuple[str, ...]:
    """What the mask is for, and what is known of it."""
    engine, policy = plan.engine, plan.policy
    compute = plan.steps - plan.held
    model = f" for {policy.made_for.model}" if policy.made_for.model else ""
    facts = [
        f"pabtune: policy {policy.name}{model}: {engine.name} computes {compute} of {plan.steps} steps",
        f"for {engine.name} {engine.version} ({'run' if engine.is_run else 'read, not run,'} by pabtune's authors); "
        f"{engine.compiling}",
        f"for exactly {plan.steps} steps{_scheduler_of(policy)}",
    ]
    evidence = evidence_of(policy)
    facts.append(f"measured in pabtune: {evidence}" if evidence else "nothing of it was measured")
    shares = shares_of(plan)
    if shares is not None:
        facts.append(
            f"predicted from a profile, time in the transformer over that of the full run: {shares[0]:.1%} under the policy, "
            f"{shares[1]:.1%} in {engine.name}"
        )
    return tuple(map(one_line, facts))


def shares_of(plan: Plan) -> tuple[float, float] | None:
    """Predicted time of the policy, and of what the engine runs, over that of the full run; None = there is no profile."""
    return None if plan.facts.profile is None else predicted_shares(plan, plan.facts.profile, plan.facts.content)


def _scheduler_of(policy: Policy) -> str:
    """Scheduler and noise levels, in a few numbers."""
    sigmas = policy.made_for.sigmas
    scheduler = f" of {policy.made_for.scheduler}" if policy.made_for.scheduler else ""
    if not sigmas:
        return f"{scheduler}; its noise levels are unknown"
    middle = sigmas[len(sigmas) // 2]
    return f"{scheduler}, noise levels {sigmas[0]:.4g} … {middle:.4g} (step {len(sigmas) // 2}) … {sigmas[-1]:.4g}"


def evidence_of(policy: Policy) -> str:
    """Speed, closeness and verdict, as far as they were measured."""
    evidence = policy.evidence
    speedup, fidelity = (_section(evidence, name) for name in ("speedup", "fidelity"))
    parts = []
    if isinstance(speedup.get("measured"), int | float):
        device = f" on {speedup['device']}" if "device" in speedup else ""
        parts.append(f"speed {speedup['measured']:.2f}x{device}")
    if isinstance(fidelity.get("psnr_db"), int | float):
        parts.append(f"PSNR {fidelity['psnr_db']:.2f} dB")
    if "verdict" in evidence:
        parts.append(f"verdict {evidence['verdict']}" + (f" on {evidence['budget']}" if "budget" in evidence else ""))
    return ", ".join(parts)


def _section(evidence: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a policy's evidence; empty where it is missing, or something else."""
    section = evidence.get(name)
    return section if isinstance(section, Mapping) else {}
