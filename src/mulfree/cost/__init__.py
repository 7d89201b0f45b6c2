"""Cost of networks: operations, parameters, bytes and energy."""

from __future__ import annotations

from mulfree.cost.counting import count as count
from mulfree.cost.energy import ENERGY_45NM as ENERGY_45NM
from mulfree.cost.energy import NumberFormat as NumberFormat
from mulfree.cost.energy import energy as energy
from mulfree.cost.graph_counting import count_graph as count_graph
from mulfree.cost.profile import FunctionProfile as FunctionProfile
from mulfree.cost.profile import LayerProfile as LayerProfile
from mulfree.cost.profile import Profile as Profile
from mulfree.cost.profile import Totals as Totals
from mulfree.cost.render import to_json as to_json
from mulfree.cost.render import to_markdown as to_markdown
from mulfree.cost.render import to_text as to_text
