"""Plots of networks: distribution of their weights, features in the plane, costs, resolutions."""

from __future__ import annotations

from mulfree.figures import save as save
from mulfree.inspection.costs import plot_comparison as plot_comparison
from mulfree.inspection.early_exit import plot_exits as plot_exits
from mulfree.inspection.features import Features as Features
from mulfree.inspection.features import classifier_of as classifier_of
from mulfree.inspection.features import features as features
from mulfree.inspection.plots import plot_features as plot_features
from mulfree.inspection.plots import plot_resolutions as plot_resolutions
from mulfree.inspection.plots import plot_weights as plot_weights
from mulfree.inspection.resolutions import Resolutions as Resolutions
from mulfree.inspection.resolutions import inspect_resolutions as inspect_resolutions
from mulfree.inspection.weights import Fit as Fit
from mulfree.inspection.weights import Law as Law
from mulfree.inspection.weights import NetworkWeights as NetworkWeights
from mulfree.inspection.weights import Sample as Sample
from mulfree.inspection.weights import fit as fit
from mulfree.inspection.weights import inspect_weights as inspect_weights
