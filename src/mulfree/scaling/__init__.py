"""Compound scaling in practice: networks of a given cost, and the search of the ratios."""

from __future__ import annotations

from mulfree.scaling.costs import MEASURES as MEASURES
from mulfree.scaling.costs import Costs as Costs
from mulfree.scaling.costs import costs_of as costs_of
from mulfree.scaling.plan import Plan as Plan
from mulfree.scaling.plan import equal_cost as equal_cost
from mulfree.scaling.plan import fit as fit
from mulfree.scaling.plan import single as single
