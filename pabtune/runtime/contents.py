"""Which content class a call of a pipeline is of, and what the rules of each class are for."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pabtune.records.errors import PabtuneWarning
from pabtune.records.policies import AUTO_CONTENT, Policy
from pabtune.records.sites import WHOLE_CALLS, Site
from pabtune.runtime.pipeline_calls import PipelineCall
from pabtune.runtime.site_hooks import SiteHook
from pabtune.runtime.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentSites:
    """What the rules of one content class are for.

    Attributes:
        content: the class; None = the general rules.
        target: the model, with the class's blocks and stacks among its sites.
        hooks: of its sites; classes share those of the same sites.
        indices: indices of the sites inside each transformer.
    """

    content: str | None
    target: Target
    hooks: tuple[SiteHook, ...]
    indices: Mapping[str, list[int]]

    @classmethod
    def of(cls, content: str | None, target: Target, hooks: Mapping[Site, SiteHook]) -> Self:
        """Those of a class, whose hooks are among these."""
        inner = [(index, site) for index, site in enumerate(target.sites) if site.kind not in WHOLE_CALLS]
        return cls(
            content=content,
            target=target,
            hooks=tuple(hooks[site] for site in target.sites),
            indices={
                name: [index for index, site in inner if site.transformer == name] for name in target.transformers
            },
        )


class ContentChoice:
    """Choice of the content class of each call, made once when the call begins, from text that all processes have.

    Args:
        policy: whose classifier tells prompts apart.
        content: the class of every call; None = the general rules; `auto` = what a call's prompts are.
    """

    def __init__(self, policy: Policy, content: str | None) -> None:
        self._policy, self._content = policy, content
        self._has_warned = self._has_warned_of_schedule = False

    def content_of(self, call: PipelineCall | None) -> str | None:
        """The class of a call; None = the general rules. A call without text runs under these, and the first one says so."""
        if self._content != AUTO_CONTENT:
            return self._content
        prompts = None if call is None else prompts_of(call.arguments)
        if prompts is None:
            self._warn()
            return None
        return self._policy.content_of(prompts)

    def warn_of_schedule(self) -> None:
        """Warns once that a run is on another schedule than that whose first steps tell the class."""
        if not self._has_warned_of_schedule:
            self._has_warned_of_schedule = True
            warnings.warn(
                f"policy {self._policy.name!r}: its first steps tell a content class on the schedule that it was made "
                "for alone; this run is on another one, and under the general rules; name the class",
                PabtuneWarning,
                stacklevel=2,
            )

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"policy {self._policy.name!r}: a call without a prompt as text (embeddings, perhaps) tells no content class "
                "and runs under the general rules; pass the text, or name the class",
                PabtuneWarning,
                stacklevel=2,
            )


def prompts_of(arguments: Mapping[str, Any]) -> list[str] | None:
    """The texts of a call's prompts; None if it has none, or embeddings in their place.

    Args:
        arguments: of the pipeline's call, by name.
    """
    prompt = arguments.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, list | tuple) else []
    return prompts if prompts and all(isinstance(each, str) for each in prompts) else None
