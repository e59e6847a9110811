"""A policy: what to broadcast when, as a value and as a file that a person can read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pabtune.records.errors import PolicyError
from pabtune.records.files import digest, load_json, save_json
from pabtune.records.hub import fetch_file, upload_file
from pabtune.records.sites import KINDS, Kind

SCHEMA = "pabtune.policy/1"
HUB_FILE = "policy.json"
Anchor = Literal["window", "start"]
Store = Literal["exact", "int8", "host"]
"""How outputs are kept for later steps: on the device as they are, there in 8 bits, or in the host's memory."""

STORES: tuple[Store, ...] = get_args(Store)
ANCHORS: tuple[Anchor, ...] = get_args(Anchor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When the sites of one kind broadcast. Exactly one of `window`, `noise_window`, `compute` is set.

    Attributes:
        kind: of the sites that follow the rule.
        range: n, where an output is computed once and serves at most n-1 further steps; 1 never broadcasts.
        window: half-open interval of steps in which broadcasting is allowed.
        noise_window: open interval of noise levels (0 = clean, 1 = noise) in which broadcasting is allowed.
        compute: the steps that compute, listed one by one.
        layers: indices of the blocks that follow the rule; None = all.
        anchor: what a range counts from: `window` = the last computed step, `start` = step 0 (compute on multiples of
            n, as the paper's reference does).
    """

    kind: Kind
    range: int | None = None
    window: tuple[int, int] | None = None
    noise_window: tuple[float, float] | None = None
    compute: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    anchor: Anchor = "window"

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The rule of a checked document."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
        }
        return cls(**values)

    def to_document(self) -> dict[str, Any]:
        """The rule as JSON."""
        document: dict[str, Any] = {"kind": self.kind}
        for name in ("range", "window", "noise_window", "compute", "layers"):
            value = getattr(self, name)
            if value is not None:
                document[name] = list(value) if isinstance(value, tuple) else value
        if self.anchor != "window":
            document["anchor"] = self.anchor
        return document


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

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The value of a checked document."""
        values = dict(document)
        if "sigmas" in values:
            values["sigmas"] = tuple(values["sigmas"])
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
        store: how outputs are kept for later steps: `exact`; `int8` with a scale per token, a quarter of float32 and half
            of bfloat16; `host`: in its pinned memory, fetched ahead of their use.
        made_for: what it holds for.
        evidence: measured gains and costs.
        provenance: how it was made.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    variants: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    store: Store = "exact"
    made_for: MadeFor = field(default_factory=MadeFor)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        source = f"policy {self.name!r}"
        if not self.name:
            raise PolicyError("a policy needs a name, but its name is empty")
        if self.store not in STORES:
            raise PolicyError(f"{source}: store: {self.store!r} is not one of {', '.join(STORES)}")
        _check_made_for(source, self.made_for)
        for rules in (self.rules, *self.variants.values()):
            for rule in rules:
                _check_rule(f"{source}: the rule for {rule.kind}", rule)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a policy file.

        Raises:
            PolicyError: the file is missing, broken, of another schema, or holds an unknown key or a wrong value.
        """
        document = load_json(Path(path), SCHEMA, PolicyError)
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The policy of a checked document."""
        return cls(
            name=document["name"],
            rules=tuple(Rule.from_document(rule) for rule in document.get("rules", ())),
            variants={
                content: tuple(Rule.from_document(rule) for rule in rules)
                for content, rules in document.get("variants", {}).items()
            },
            store=document.get("store", "exact"),
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
        if self.store != "exact":
            document["store"] = self.store
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


def _check_made_for(source: str, made_for: MadeFor) -> None:
    if made_for.fingerprint is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", made_for.fingerprint):
        raise PolicyError(f"{source}: a fingerprint is sha256: and 64 hex digits, but got {made_for.fingerprint!r}")
    if made_for.steps is not None and (not _is_whole(made_for.steps) or made_for.steps < 1):
        raise PolicyError(f"{source}: the number of steps must be a whole number from 1 on, but is {made_for.steps!r}")
    if made_for.sigmas is not None and not made_for.sigmas:
        raise PolicyError(f"{source}: the list of noise levels is empty; leave it out where they are unknown")


def _check_rule(source: str, rule: Rule) -> None:
    _check_values(source, rule)
    present = [key for key in ("window", "noise_window", "compute") if getattr(rule, key) is not None]
    if rule.compute is not None:
        if present != ["compute"] or rule.range is not None:
            raise PolicyError(f"{source}: `compute` stands alone, without a range or a window, but also has {present}")
        if not rule.compute or rule.compute[0] != 0 or list(rule.compute) != sorted(set(rule.compute)):
            raise PolicyError(f"{source}: `compute` must start with step 0 and rise, but is {list(rule.compute)}")
        return
    if rule.range is None or len(present) != 1:
        raise PolicyError(f"{source}: needs either `compute`, or a `range` and one of `window`, `noise_window`")
    low, high = rule.window or rule.noise_window or (0, 0)
    if not low < high:
        raise PolicyError(f"{source}: a window [start, stop] must have start < stop, but is [{low}, {high}]")


def _check_values(source: str, rule: Rule) -> None:
    """Checks each value of a rule by itself."""
    for name, value, choices in (("kind", rule.kind, KINDS), ("anchor", rule.anchor, ANCHORS)):
        if value not in choices:
            raise PolicyError(f"{source}: {name}: {value!r} is not one of {', '.join(choices)}")
    if rule.range is not None and (not _is_whole(rule.range) or rule.range < 1):
        raise PolicyError(f"{source}: `range` must be a whole number from 1 on, but is {rule.range!r}")
    numbers: dict[str, Sequence[Any] | None] = {
        "window": rule.window, "compute": rule.compute, "layers": rule.layers
    }  # fmt: skip
    for name, values in numbers.items():
        if not all(_is_whole(value) and value >= 0 for value in values or ()):
            raise PolicyError(f"{source}: `{name}` must hold whole numbers from 0 on, but is {list(values or ())}")
    if not all(0 <= level <= 1 for level in rule.noise_window or ()):
        raise PolicyError(f"{source}: noise levels lie in 0..1, but `noise_window` is {list(rule.noise_window or ())}")
    for name, window in (("window", rule.window), ("noise_window", rule.noise_window)):
        if window is not None and len(window) != 2:
            raise PolicyError(f"{source}: `{name}` needs a start and a stop, but is {list(window)}")
    if rule.layers is not None and (not rule.layers or len(set(rule.layers)) != len(rule.layers)):
        raise PolicyError(f"{source}: `layers` must name at least one layer, each once, but is {list(rule.layers)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
