"""Numbers of arithmetic operations by kind, of operators, nodes and whole networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class OpCounts(Mapping[str, int]):
    """Number of arithmetic operations of each kind; a mapping over `KINDS`.

    Attributes:
        mul: Multiplications.
        add: Additions and subtractions.
        shift: Multiplications by powers of two.
        xnor: One-bit multiplications of binary networks.
        compare: Comparisons, as in a maximum.
        lookup: Values of a nonlinear function of one number, such as a sigmoid; a table in int8.
    """

    mul: int = 0
    add: int = 0
    shift: int = 0
    xnor: int = 0
    compare: int = 0
    lookup: int = 0

    def __getitem__(self, kind: str) -> int:
        if kind not in KINDS:
            raise KeyError(kind)
        number: int = getattr(self, kind)
        return number

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)

    def __add__(self, other: OpCounts) -> OpCounts:
        """Sum by kind."""
        return OpCounts(**{kind: self[kind] + other[kind] for kind in KINDS})

    def __mul__(self, factor: int) -> OpCounts:
        """Counts of `factor` repetitions."""
        return OpCounts(**{kind: number * factor for kind, number in self.items()})

    @property
    def total(self) -> int:
        """Operations of all kinds."""
        return sum(self.values())


KINDS: tuple[str, ...] = tuple(field.name for field in fields(OpCounts))
