"""What campaigns share: a round, and how it fails."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class Failed(Exception):
    """What a round found was not as promised."""


@dataclass
class Round:
    """One round of a campaign.

    Attributes:
        number: from 0 on; with the campaign's seed it fixes all that ``chance`` draws.
        folder: for its files, kept if it fails.
        chance: what is random in it.
        tried: what was tried in it, usually one thing.
        done: what it did, for the report of a failure.
        failures: what was not as promised.
    """

    number: int
    folder: Path
    chance: random.Random
    tried: int = 1
    done: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def play(self, campaign: Callable[["Round"], None]) -> None:
        """Plays it; all that it raises is a failure."""
        self.folder.mkdir(parents=True)
        try:
            campaign(self)
        except Exception as error:
            kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            self.failures.append(f"{kind}{error}")
