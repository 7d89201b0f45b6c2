"""What a network costs (operations, memory, energy) and how fast it runs on this computer."""

from __future__ import annotations

from mulfree.profiling.counting import count as count
from mulfree.profiling.energy import ENERGY_45NM as ENERGY_45NM
from mulfree.profiling.energy import NumberFormat as NumberFormat
from mulfree.profiling.energy import energy as energy
from mulfree.profiling.graph_counting import count_graph as count_graph
from mulfree.profiling.profile import FunctionProfile as FunctionProfile
from mulfree.profiling.profile import LayerProfile as LayerProfile
from mulfree.profiling.profile import Profile as Profile
from mulfree.profiling.profile import Totals as Totals
from mulfree.profiling.render import to_json as to_json
from mulfree.profiling.render import to_markdown as to_markdown
from mulfree.profiling.render import to_text as to_text
