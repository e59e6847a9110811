"""Looks at unseen prompts, which all studies of a storage count: each one leaves less error to the next.

Knows prompts and what studies note of themselves; knows nothing of trials, policies or verdicts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any
from uuid import uuid4

from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.records.splits import normal_text
from pabtune.tuning.workers import holding_interrupts

LOOK = "look-"
"""Attributes of a study that hold a look begin with this."""

SHORT = 8
"""Characters of a prompt's checksum: two that are taken for one only make a later verdict stricter."""


@holding_interrupts()
def count_look(
    note: Callable[[str, Any], None],
    notes_of_all: Callable[[], Sequence[Mapping[str, Any]]],
    unseen: Sequence[Prompt],
    claim: str,
    content: str | None = None,
) -> int:
    """Notes a look at unseen prompts; returns how many there were at any of these, this one included.

    What is judged for a content class counts the looks for this class alone. A claim that was looked at on the very same
    prompts before, by a search that was stopped for example, is no further look: the videos are the same again.

    Args:
        note: writes a note of the study that looks, under a key.
        notes_of_all: what each study of the storage has noted, this one included.
        unseen: prompts that a policy is judged on.
        claim: what is claimed of them: the policy, and what it is to hold, as a checksum.
        content: content class that it is judged for; None = all.
    """
    own, whole = (
        sorted({sha256(normal_text(prompt.prompt).encode()).hexdigest()[:SHORT] for prompt in unseen}),
        digest_prompts(unseen),
    )
    again = {"content": content, "claim": claim, "of": whole}
    known = [look for each in notes_of_all() for look in _looks(each) if "number" in look]
    earlier = [look for look in known if again.items() <= look.items()]
    if not earlier:
        look = {**again, "prompts": own}
        key = f"{LOOK}{uuid4().hex}"
        note(key, look)
        notes = notes_of_all()
        looks = [each for of_study in notes for each in _looks(of_study) if each["content"] == content]
        same = sum(not set(own).isdisjoint(each["prompts"]) for each in looks)
        earlier = [{"number": same + sum(_looks_of_before(each, whole) for each in notes)}]
        note(key, {**look, **earlier[0]})
    return max(int(look["number"]) for look in earlier)


def _looks(notes: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (value for key, value in notes.items() if key.startswith(LOOK))


def _looks_of_before(notes: Mapping[str, Any], unseen: str) -> int:
    """Looks of a study of an earlier version, which noted a number and a checksum of all prompts together."""
    return int(notes.get("looks", 0)) if notes.get("unseen") == unseen else 0
