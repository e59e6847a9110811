"""A policy: what to broadcast when, as a value and as a file that a person can read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pabtune.records.classifiers import PromptClassifier
from pabtune.records.errors import PolicyError
from pabtune.records.files import check_document, digest, load_json, save_json
from pabtune.records.first_steps import FirstSteps, first_broadcast
from pabtune.records.hub import fetch_file, upload_file
from pabtune.records.rules import Rule, check_rule
from pabtune.records.upgrades import upgrade

SCHEMA = "pabtune.policy/2"
HUB_FILE = "policy.json"
Store = Literal["exact", "int8", "host"]
"""How outputs are kept for later steps: on the device as they are, there in 8 bits, or in the host's memory."""

STORES: tuple[Store, ...] = get_args(Store)

AUTO_CONTENT = "auto"
"""In place of a content class: each call of a pipeline tells its own, by its prompt."""

MOST_STEPS = 10_000
"""More than any run has."""

LARGEST_LEVEL = 1e3
"""No scheduler's noise levels come near it; theirs are about 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFor:
    """The model and schedule that a policy was made for. None = any.

    Attributes:
        model: class of the transformer.
        fingerprint: digest of its configuration and sites.
        steps: number of denoising steps.
        scheduler: class of the noise scheduler.
        sigmas: noise level of every step, falling; step windows are carried to other schedules by these.
        config: configuration of each transformer, to say in what another model differs.
        settings: guidance, size, precision, device: for the reader, not checked.
    """

    model: str | None = None
    fingerprint: str | None = None
    steps: int | None = None
    scheduler: str | None = None
    sigmas: tuple[float, ...] | None = None
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known_steps(self) -> int | None:
        """Number of denoising steps, by that of the noise levels if it is not told by itself; None = any."""
        return self.steps or len(self.sigmas or ()) or None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The value of a checked document."""
        values = dict(document)
        if "sigmas" in values:
            values["sigmas"] = tuple(map(float, values["sigmas"]))
        return cls(**values)

    def to_document(self) -> dict[str, Any]:
        """The same as JSON."""
        document: dict[str, Any] = {}
        for name in ("model", "fingerprint", "steps", "scheduler"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        if self.sigmas is not None:
            document["sigmas"] = list(self.sigmas)
        if self.config:
            document["config"] = {name: dict(values) for name, values in self.config.items()}
        if self.settings:
            document["settings"] = dict(self.settings)
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to broadcast when.

    Attributes:
        name: for people.
        rules: for prompts without a content class, or of one that has no variant.
        variants: rules per content class.
        classifier: tells a prompt's content class, for runs whose content is `auto`; None = nothing does.
        first_steps: tells the content class by the first steps of a run, in place of its prompt; None = nothing does.
        store: how outputs are kept for later steps: `exact`; `int8` with a scale per token, a quarter of float32 and half
            of bfloat16; `host`: in its pinned memory, fetched ahead of their use.
        steps: number of denoising steps that a run is made with; None = as its caller asks.
        made_for: what it holds for.
        evidence: measured gains and costs.
        provenance: how it was made.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    variants: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    classifier: PromptClassifier | None = None
    first_steps: FirstSteps | None = None
    store: Store = "exact"
    steps: int | None = None
    made_for: MadeFor = field(default_factory=MadeFor)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        source = f"policy {self.name!r}"
        if not self.name:
            raise PolicyError("a policy needs a name, but its name is empty")
        if self.store not in STORES:
            raise PolicyError(f"{source}: store: {self.store!r} is not one of {', '.join(STORES)}")
        if self.steps is not None and (not _is_whole(self.steps) or self.steps < 1):
            raise PolicyError(f"{source}: `steps` must be a whole number from 1 on, but is {self.steps!r}")
        if AUTO_CONTENT in self.variants:
            raise PolicyError(
                f"{source}: a content class cannot be called {AUTO_CONTENT!r}, which asks for one by the prompt"
            )
        _check_made_for(source, self.made_for)
        for rules in (self.rules, *self.variants.values()):
            for rule in rules:
                check_rule(f"{source}: the rule for {rule.kind}", rule)
                _check_reach(f"{source}: the rule for {rule.kind}", rule, self.made_for)
        if self.first_steps is not None:
            self._check_first_steps(source, self.first_steps)

    def _check_first_steps(self, source: str, told: FirstSteps) -> None:
        if self.classifier is not None:
            raise PolicyError(
                f"{source}: `classifier` tells the content class by the prompt, `first_steps` by the steps; leave one out"
            )
        for content, rules in ((None, self.rules), *self.variants.items()):
            for rule in rules:
                first = first_broadcast(rule, self.made_for.steps)
                if first is not None and first < told.steps:
                    whose = "the general rule" if content is None else f"variant {content}: the rule"
                    raise PolicyError(
                        f"{source}: {whose} for {rule.kind} broadcasts from step {first} on, but the class is told after the "
                        f"first {told.steps} steps, which all have to compute"
                    )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a policy file.

        Raises:
            PolicyError: the file is missing, broken, of another schema, or holds an unknown key or a wrong value.
        """
        return cls._of(load_json(Path(path), SCHEMA, PolicyError, upgrade))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The policy of a JSON document.

        Raises:
            PolicyError: the document is of another schema, or holds an unknown key or a wrong value.
        """
        return cls._of(check_document(document, "policy", SCHEMA, PolicyError, upgrade))

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            name=document["name"],
            rules=tuple(Rule.from_document(rule) for rule in document.get("rules", ())),
            variants={
                content: tuple(Rule.from_document(rule) for rule in rules)
                for content, rules in document.get("variants", {}).items()
            },
            classifier=PromptClassifier.from_document(document["classifier"]) if "classifier" in document else None,
            first_steps=FirstSteps.from_document(document["first_steps"]) if "first_steps" in document else None,
            store=document.get("store", "exact"),
            steps=document.get("steps"),
            made_for=MadeFor.from_document(document.get("made_for", {})),
            evidence=document.get("evidence", {}),
            provenance=document.get("provenance", {}),
        )

    def to_document(self) -> dict[str, Any]:
        """The policy as JSON."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "name": self.name,
            "rules": [rule.to_document() for rule in self.rules],
        }
        if self.variants:
            document["variants"] = {
                content: [rule.to_document() for rule in rules] for content, rules in self.variants.items()
            }
        if self.classifier is not None:
            document["classifier"] = self.classifier.to_document()
        if self.first_steps is not None:
            document["first_steps"] = self.first_steps.to_document()
        if self.store != "exact":
            document["store"] = self.store
        if self.steps is not None:
            document["steps"] = self.steps
        for name, value in (
            ("made_for", self.made_for.to_document()),
            ("evidence", dict(self.evidence)),
            ("provenance", dict(self.provenance)),
        ):
            if value:
                document[name] = value
        return document

    def save_pretrained(self, folder: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None) -> None:
        """Writes the policy into a folder, as models of Hugging Face are, and uploads it with `push_to_hub`.

        Args:
            folder: for `policy.json`.
            push_to_hub: upload it as well.
            repo_id: where to; default: the folder's name.

        Raises:
            FileError: the folder cannot be written to.
        """
        self.save(Path(folder) / HUB_FILE)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(folder).name)

    @classmethod
    def from_pretrained(cls, folder_or_repo_id: str | Path, **download: Any) -> Self:
        """Reads the policy of a folder or of a repository on the Hugging Face hub.

        Args:
            folder_or_repo_id: a local folder with `policy.json`, or `owner/name`.
            download: arguments of `huggingface_hub.hf_hub_download`, such as `revision`, `token`, `cache_dir`.

        Raises:
            PolicyError: there is no such folder or repository, or its file is no policy.
        """
        return cls.load(fetch_file(folder_or_repo_id, HUB_FILE, PolicyError, **download))

    def push_to_hub(self, repo_id: str, **options: Any) -> None:
        """Uploads the policy to a repository on the Hugging Face hub, which is created if it is missing.

        Args:
            repo_id: `owner/name`.
            options: arguments of `huggingface_hub.HfApi.upload_file`, such as `token`, `commit_message`, `revision`.
        """
        content = (json.dumps(self.to_document(), indent=2, sort_keys=True) + "\n").encode()
        upload_file(repo_id, HUB_FILE, content, **options)

    def save(self, path: str | Path) -> None:
        """Writes the policy file, atomically.

        Raises:
            FileError: the place cannot be written to.
        """
        save_json(Path(path), self.to_document())

    @property
    def digest(self) -> str:
        """Checksum of everything in the file."""
        return digest(self.to_document())

    def rules_for(self, content: str | None) -> tuple[Rule, ...]:
        """The rules for a content class; None = the rules for any content.

        Raises:
            PolicyError: the policy has no variant for that class.
        """
        if content is None:
            return self.rules
        if content not in self.variants:
            contents = ", ".join(self.variants) or "none"
            raise PolicyError(f"policy {self.name!r} has no variant for content {content!r}; it has: {contents}")
        return self.variants[content]

    def choices(self, content: str | None) -> tuple[str | None, ...]:
        """The content classes whose rules a run may be under; None stands for the general rules.

        Args:
            content: as its user says: a class, None, or `auto`, where each call of the pipeline may be of any.

        Raises:
            PolicyError: the policy has no variant for that class, or nothing that tells classes by prompts.
        """
        if content != AUTO_CONTENT:
            self.rules_for(content)
            return (content,)
        if not self.tells_content:
            raise PolicyError(
                f"policy {self.name!r} has no classifier of prompts or of first steps, so that content cannot be "
                f"{AUTO_CONTENT!r}; name a class, or search with --per-content, which makes one"
            )
        return (None, *self.variants)

    @property
    def tells_content(self) -> bool:
        """Whether runs whose content is `auto` have something that tells their class."""
        return self.classifier is not None or self.first_steps is not None

    def content_of(self, prompts: Sequence[str]) -> str | None:
        """The content class whose variant suits all of these prompts, as the classifier tells it; None = the general rules."""
        content = None if self.classifier is None else self.classifier.content_of_all(prompts)
        return content if content in self.variants else None


def check_content(policies: Sequence[Policy], content: str | None) -> None:
    """Refuses a content class that none of the policies knows, and `auto` where none of them tells classes.

    Args:
        policies: of which others may be without variants, to compare with.
        content: as for `Policy.choices`.

    Raises:
        PolicyError: says what the first policy has.
    """
    if policies and not any(
        content in policy.variants or (content == AUTO_CONTENT and policy.tells_content) for policy in policies
    ):
        policies[0].choices(content)


def _check_made_for(source: str, made_for: MadeFor) -> None:
    if made_for.fingerprint is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", made_for.fingerprint):
        raise PolicyError(f"{source}: a fingerprint is sha256: and 64 hex digits, but got {made_for.fingerprint!r}")
    if made_for.steps is not None and (not _is_whole(made_for.steps) or made_for.steps < 1):
        raise PolicyError(f"{source}: the number of steps must be a whole number from 1 on, but is {made_for.steps!r}")
    if made_for.steps is not None and made_for.steps > MOST_STEPS:
        raise PolicyError(f"{source}: it was made for {made_for.steps} steps, but no run has more than {MOST_STEPS}")
    if made_for.sigmas is not None and not made_for.sigmas:
        raise PolicyError(f"{source}: the list of noise levels is empty; leave it out where they are unknown")
    if made_for.sigmas and made_for.steps not in (None, len(made_for.sigmas)):
        raise PolicyError(
            f"{source}: {made_for.steps} steps need as many noise levels, but it has {len(made_for.sigmas)}"
        )
    if not all(abs(level) <= LARGEST_LEVEL for level in made_for.sigmas or ()):
        raise PolicyError(
            f"{source}: noise levels lie in 0..1, but the largest is {max(map(abs, made_for.sigmas or ()))}"
        )


def _check_reach(source: str, rule: Rule, made_for: MadeFor) -> None:
    """Checks that a rule speaks of steps of the schedule that it was made for."""
    steps = made_for.steps or len(made_for.sigmas or ())
    stop = rule.window[1] if rule.window is not None else rule.compute[-1] + 1 if rule.compute is not None else 0
    if steps and stop > steps:
        raise PolicyError(
            f"{source}: it goes to step {stop}, but the policy was made for {steps} steps; a window is half-open "
            "[start, stop) with stop <= steps"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
