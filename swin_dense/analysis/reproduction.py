"""Every published row beside the counts of its config."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swin_dense.analysis.counting import Counts, count_config
from swin_dense.analysis.paper import Row
from swin_dense.engine.config.prepare import load_config

# The tables round, and some of their models were counted by other tools.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Reproduced:
    """A published row and what was counted.

    Attributes:
        row: what is published.
        counts: of the row's config.
        variants: of the row's other readings, by name.
    """

    row: Row
    counts: Counts
    variants: Mapping[str, Counts] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether both counts are within 1 % of the published ones."""
        return not self._offsets()

    def remarks(self) -> str:
        """Why the counts are not the published ones; how far off, where that is not known."""
        parts = []
        if offsets := self._offsets():
            unknown = f"off by {', '.join(offsets)}, for a reason that is not known"
            parts.append(self.row.note or unknown)
            if self.row.unseen:
                unseen = sum(self.counts.outside_layers_of[name] for name in self.row.unseen)
                seen = self.counts.flops_g - unseen / 1e9
                parts.append(f"without those of {', '.join(self.row.unseen)}: {seen:.0f} G")
        parts += [
            f"{name}: {counts.params_m:.1f} M, {counts.flops_g:.0f} G"
            for name, counts in self.variants.items()
        ]
        return "; ".join(parts)

    def _offsets(self) -> list[str]:
        """How far each count is off that does not agree, such as '+1.5% in FLOPs'."""
        pairs = (
            (self.counts.params_m, self.row.params_m, "parameters"),
            (self.counts.flops_g, self.row.flops_g, "FLOPs"),
        )
        return [
            f"{counted / published - 1:+.1%} in {name}"
            for counted, published, name in pairs
            if published is not None and abs(counted - published) > TOLERANCE * published
        ]


def reproduce(rows: Iterable[Row], configs: Path) -> Iterator[Reproduced]:
    """Count the config of each row, one after the other; rows that share a config count once.

    Raises:
        UserError: a row's config is not there.
    """

    @functools.cache
    def count(config: str, *options: tuple[str, Any]) -> Counts:
        return count_config(load_config(configs / f"{config}.py", dict(options)))

    for row in rows:
        variants = {name: count(row.config, *new.items()) for name, new in row.variants.items()}
        yield Reproduced(row, count(row.config), variants)
