"""Training: methods, optimisers, schedules, and runs that can be stopped and resumed."""

from __future__ import annotations

from mulfree.tasks.classification.agreement import Fidelity as Fidelity
from mulfree.tasks.classification.metrics import Evaluation as Evaluation
from mulfree.training.evaluation import evaluate as evaluate
from mulfree.training.method import Batch as Batch
from mulfree.training.method import MethodConfig as MethodConfig
from mulfree.training.method import TrainingMethod as TrainingMethod
from mulfree.training.optim.build import OptimizerConfig as OptimizerConfig
from mulfree.training.optim.build import build_optimizer as build_optimizer
from mulfree.training.optim.local_lr import AdaptiveLocalLR as AdaptiveLocalLR
from mulfree.training.optim.p_annealing import PAnnealing as PAnnealing
from mulfree.training.optim.p_annealing import PAnnealingConfig as PAnnealingConfig
from mulfree.training.optim.schedule import Schedule as Schedule
from mulfree.training.optim.schedule import ScheduleConfig as ScheduleConfig
from mulfree.training.run.checkpoint import Checkpoint as Checkpoint
from mulfree.training.run.checkpoint import load_checkpoint as load_checkpoint
from mulfree.training.run.checkpoint import load_model as load_model
from mulfree.training.run.checkpoint import model_of as model_of
from mulfree.training.run.command_line import read_config as read_config
from mulfree.training.run.config import NetworkConfig as NetworkConfig
from mulfree.training.run.config import TaskConfig as TaskConfig
from mulfree.training.run.config import TrainConfig as TrainConfig
from mulfree.training.run.config import TrainerConfig as TrainerConfig
from mulfree.training.run.runner import Result as Result
from mulfree.training.run.runner import train as train
