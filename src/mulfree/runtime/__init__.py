"""Runs quantised networks; needs numpy and the native kernels, never torch."""

from __future__ import annotations

from mulfree.runtime.artifact import load as load
from mulfree.runtime.artifact import save as save
from mulfree.runtime.dynamic_resolution import (
    DynamicResolutionSession as DynamicResolutionSession,
)
from mulfree.runtime.early_exit import EarlyExitSession as EarlyExitSession
from mulfree.runtime.exits import Exits as Exits
from mulfree.runtime.graph import Graph as Graph
from mulfree.runtime.merge import merge as merge
from mulfree.runtime.profile import NodeProfile as NodeProfile
from mulfree.runtime.session import Session as Session
