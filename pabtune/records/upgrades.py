"""Documents of older schemas, read as the current ones: one function for each family of files, one step for each version.

`pabtune.profile/1` became `pabtune.profile/2`: windows and ranking are conclusions, which are computed on demand; sizes of
outputs and the transformer's calls, which some files lacked, are required. The digest that a file had as version 1 stays in
its provenance as `upgraded_from`: the provenance of policies names it.

`pabtune.policy/1` became `pabtune.policy/2`, which says more; what version 1 says means the same.
Keys that were added to version 2 are optional; a file without them means what it did.
"""

from collections.abc import Mapping
from typing import Any

from pabtune.records.errors import ProfileError
from pabtune.records.files import digest

ADDED_LATER = ("site_bytes", "site_int8_bytes", "call")
"""Measurements that the first files of version 1 do not hold; nothing else in them tells these."""


def upgrade(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A document as the current schema of its family writes it; one that is current, or unknown, is left as it is.

    Args:
        document: as read from a file, not checked yet.
        source: names it in messages.

    Raises:
        ProfileError: it lacks measurements that nothing can replace.
    """
    if document.get("schema") == "pabtune.policy/1":
        return {**document, "schema": "pabtune.policy/2"}
    if document.get("schema") != "pabtune.profile/1":
        return dict(document)
    missing = [name for name in ADDED_LATER if name not in document]
    if missing:
        raise ProfileError(f"{source}: made before {', '.join(missing)} were measured; profile again")
    upgraded = {key: value for key, value in document.items() if key not in ("windows", "ranking")}
    provenance = document.get("provenance")
    if isinstance(provenance, Mapping):
        upgraded["provenance"] = {**provenance, "upgraded_from": _digest_of_version_1(document)}
    return {**upgraded, "schema": "pabtune.profile/2"}


def _digest_of_version_1(document: Mapping[str, Any]) -> str:
    """The checksum that version 1 took: of everything but `call` and the name of the arrays' file."""
    arrays = document.get("arrays")
    checksum = arrays.get("checksum") if isinstance(arrays, Mapping) else None
    content = {key: value for key, value in document.items() if key != "call"}
    return digest({**content, "arrays": {"file": "", "checksum": checksum}})
