"""A policy: what to broadcast when, as a value and as a file that a person can read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pabtune.records.errors import PolicyError
from pabtune.records.files import check_document, digest, load_json, save_json
from pabtune.records.sites import Kind

SCHEMA = "pabtune.policy/1"
HUB_FILE = "policy.json"
Anchor = Literal["window", "start"]
Store = Literal["exact", "int8", "host"]
"""How outputs are kept for later steps: on the device as they are, there in 8 bits, or in the host's memory."""

STORES: tuple[Store, ...] = get_args(Store)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When the sites of one kind broadcast. Exactly one of `window`, `noise_window`, `compute` is set.

    Attributes:
        kind: the sites it is for.
        range: n: an output is computed once and serves n-1 further steps at most; 1 never broadcasts.
        window: half-open interval of steps in which broadcasting is allowed.
        noise_window: open interval of noise levels (0 = clean, 1 = noise) in which broadcasting is allowed.
        compute: the steps that compute, outright.
        layers: indices of the blocks it is for; None = all.
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
        """The rule that a checked document holds."""
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
    """What a policy holds for. None = any.

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
        """What a checked document says."""
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
        rules: when there are no variants, or for prompts of no known content class.
        variants: rules per content class.
        store: how outputs are kept for later steps: `exact`; `int8` with a scale per token, a quarter of float32 and half
            of bfloat16; `host`: in its pinned memory, fetched ahead of their use.
        made_for: what it holds for.
        evidence: what it gains and costs, measured.
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
        check_document(self.to_document(), f"policy {self.name!r}", SCHEMA, PolicyError)
        for rules in (self.rules, *self.variants.values()):
            for rule in rules:
                _check_rule(self.name, rule)

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
        """The policy that a checked document holds."""
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
        """Writes the policy into a folder, as models of Hugging Face are, and uploads it if asked to.

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
        if Path(folder_or_repo_id).is_dir():
            return cls.load(Path(folder_or_repo_id) / HUB_FILE)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return cls.load(hf_hub_download(str(folder_or_repo_id), HUB_FILE, **download))
        except (OSError, HfHubHTTPError, HFValidationError) as error:
            raise PolicyError(f"no policy in {str(folder_or_repo_id)!r}: {str(error).splitlines()[0]}") from error

    def push_to_hub(self, repo_id: str, **options: Any) -> None:
        """Uploads the policy to a repository on the Hugging Face hub, which is made if it is missing.

        Args:
            repo_id: `owner/name`.
            options: arguments of `huggingface_hub.HfApi.upload_file`, such as `token`, `commit_message`, `revision`.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=options.pop("token", None))
        api.create_repo(repo_id, exist_ok=True)
        content = (json.dumps(self.to_document(), indent=2, sort_keys=True) + "\n").encode()
        api.upload_file(path_or_fileobj=content, path_in_repo=HUB_FILE, repo_id=repo_id, **options)

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
            known = ", ".join(self.variants) or "none"
            raise PolicyError(f"policy {self.name!r} has no variant for content {content!r}; it has: {known}")
        return self.variants[content]


def _check_rule(name: str, rule: Rule) -> None:
    source = f"policy {name!r}: the rule for {rule.kind}"
    given = [key for key in ("window", "noise_window", "compute") if getattr(rule, key) is not None]
    if rule.compute is not None:
        if given != ["compute"] or rule.range is not None:
            raise PolicyError(f"{source}: `compute` stands alone, without a range or a window, but also has {given}")
        if rule.compute[0] != 0 or list(rule.compute) != sorted(set(rule.compute)):
            raise PolicyError(f"{source}: `compute` must start with step 0 and rise, but is {list(rule.compute)}")
        return
    if rule.range is None or len(given) != 1:
        raise PolicyError(f"{source}: needs either `compute`, or a `range` and one of `window`, `noise_window`")
    low, high = rule.window or rule.noise_window or (0, 0)
    if not low < high:
        raise PolicyError(f"{source}: a window [start, stop] must have start < stop, but is [{low}, {high}]")
