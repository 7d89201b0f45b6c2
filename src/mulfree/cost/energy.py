"""Energy of arithmetic in a 45 nm process.

The numbers are M. Horowitz's (Computing's energy problem, ISSCC 2014, figure 1.1.9), which the
authors of adder networks use too: 3.7 and 0.9 pJ for float32 (An Empirical Study of Adder Neural
Networks for Object Detection, arXiv 2112.13608, section 3.3), 0.2 and 0.03 pJ for int8 (its
supplement). Table 1 of ShiftAddLLM (arXiv 2406.05981) repeats them with two entries exchanged:
a float16 multiplication takes 1.1 pJ and a float32 addition 0.9 pJ, not the other way round.
Its shifts of 32, 16 and 8 bits take 0.13, 0.057 and 0.024 pJ; Horowitz lists none, and these are
quoted from memory.

They are the energy of the arithmetic alone. Reading operands costs more than computing with them
and depends on the machine; `MEMORY_45NM` has the prices of two extremes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mulfree.errors import ConfigError, choices_message
from mulfree.opcounts import OpCounts


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """Price of each kind of operation, and size of a number, in a number format.

    Attributes:
        mul: Energy of a multiplication in pJ.
        add: Energy of an addition or subtraction in pJ.
        shift: Energy of a shift of a number of this width in pJ.
        itemsize: Bytes of one number.
        xnor: Energy of a one-bit multiplication in pJ, neglected.
        lookup: Energy of a nonlinear function in pJ, neglected: the source has no entry for one.
    """

    mul: float
    add: float
    shift: float
    itemsize: int
    xnor: float = 0.0
    lookup: float = 0.0

    @property
    def compare(self) -> float:
        """Energy of a comparison, which subtracts, in pJ."""
        return self.add


ENERGY_45NM: Mapping[str, NumberFormat] = MappingProxyType(
    {
        "fp32": NumberFormat(mul=3.7, add=0.9, shift=0.13, itemsize=4),
        "fp16": NumberFormat(mul=1.1, add=0.4, shift=0.057, itemsize=2),
        "int32": NumberFormat(mul=3.1, add=0.1, shift=0.13, itemsize=4),
        "int8": NumberFormat(mul=0.2, add=0.03, shift=0.024, itemsize=1),
    }
)

MEMORY_45NM: Mapping[str, float] = MappingProxyType({"sram": 5.0 / 4, "dram": 640.0 / 4})
"""Energy in pJ of moving one byte: 5 pJ for 32 bits of an 8 KB SRAM, 640 pJ for 32 bits of DRAM.

The figures are Horowitz's for a read. A write is taken to cost as much, and narrower numbers share
an access of 32 bits.
"""


def number_format(dtype: str) -> NumberFormat:
    """The entry of `ENERGY_45NM` for `dtype`.

    Raises:
        ConfigError: The table has no such number format.
    """
    if dtype not in ENERGY_45NM:
        raise ConfigError(choices_message("cost", "dtype", dtype, ENERGY_45NM))
    return ENERGY_45NM[dtype]


def energy(cost: OpCounts, dtype: str = "fp32") -> float:
    """Energy of `cost` in pJ: operations of each kind times their table entries.

    All operations are taken at the width of `dtype`, as the papers do; sums of int8 products that
    are accumulated in int32 take more. A one-bit XNOR and nonlinear functions are neglected.

    Args:
        cost: Number of operations.
        dtype: A key of `ENERGY_45NM`.

    Raises:
        ConfigError: The table has no such number format.
    """
    unit = number_format(dtype)
    return sum(number * float(getattr(unit, kind)) for kind, number in cost.items())
