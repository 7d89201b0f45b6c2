"""Cost of networks: operations, parameters, bytes and energy."""

from __future__ import annotations

from mulfree.cost.comparison import Comparison as Comparison
from mulfree.cost.comparison import Energy as Energy
from mulfree.cost.comparison import Latency as Latency
from mulfree.cost.comparison import NetworkCost as NetworkCost
from mulfree.cost.comparison import compare as compare
from mulfree.cost.comparison_report import comparison_to_json as comparison_to_json
from mulfree.cost.comparison_report import comparison_to_markdown as comparison_to_markdown
from mulfree.cost.comparison_report import comparison_to_text as comparison_to_text
from mulfree.cost.counting import count as count
from mulfree.cost.energy import ENERGY_45NM as ENERGY_45NM
from mulfree.cost.energy import MEMORY_45NM as MEMORY_45NM
from mulfree.cost.energy import NumberFormat as NumberFormat
from mulfree.cost.energy import energy as energy
from mulfree.cost.exits import networks_to_exits as networks_to_exits
from mulfree.cost.graph_counting import count_graph as count_graph
from mulfree.cost.profile import FunctionProfile as FunctionProfile
from mulfree.cost.profile import LayerProfile as LayerProfile
from mulfree.cost.profile import Profile as Profile
from mulfree.cost.profile import Totals as Totals
from mulfree.cost.render import to_json as to_json
from mulfree.cost.render import to_markdown as to_markdown
from mulfree.cost.render import to_text as to_text
from mulfree.cost.resolutions import count_resolutions as count_resolutions
from mulfree.cost.resolutions import resolution_costs as resolution_costs
