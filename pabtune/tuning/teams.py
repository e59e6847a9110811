"""Workers of a search that were started together on a machine: one of them does what is to be done once.

All of them try policies out. The leader fits schedules before, and confirms and judges after; the others wait for what it
found. Knows nothing of how they were started, or of workers that join the study from elsewhere.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabtune.records.files import as_file_name, write_atomically

POLL_S = 0.5
"""Time between two looks at what the leader wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A worker's place among those that were started together.

    Attributes:
        rank: of this worker; 0 leads.
        folder: for what the leader tells the others, which belongs to this start of the team; None = there are no others.
    """

    rank: int = 0
    folder: Path | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this worker does what is to be done once."""
        return self.rank == 0

    def of_leader(self, key: str, value: Any) -> Any:
        """A value of the leader, as JSON has it. The others wait: the team is started again if the leader dies.

        Args:
            key: tells it from other values.
            value: the leader's; that of others is not used.
        """
        if self.folder is None:
            return value
        path = self.folder / f"{as_file_name(key)}.json"
        if self.is_leader:
            write_atomically(path, lambda partial: partial.write_text(json.dumps(value), encoding="utf-8"))
        while not path.exists():
            time.sleep(POLL_S)
        return json.loads(path.read_text(encoding="utf-8"))


ALONE = Team()
"""A worker that was started by itself."""
