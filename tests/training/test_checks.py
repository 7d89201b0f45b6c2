"""Values that the options of a run refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mulfree.errors import ConfigError
from mulfree.training import OptimizerConfig, PAnnealingConfig, ScheduleConfig, TrainerConfig
from mulfree.training.methods import early_exit, graft, kd, pkkd, qat, supervised

REFUSED: dict[tuple[str, type], list[tuple[dict[str, Any], str]]] = {
    ("TrainerConfig", TrainerConfig): [
        ({"accelerator": "tpu"}, "`accelerator` must be one of auto, cpu, cuda, got 'tpu'"),
        ({"precision": "8"}, "`precision` must be one of .*, got '8'"),
        ({"strategy": "fspd"}, "`strategy` must be one of auto, ddp, fsdp, got 'fspd'"),
        ({"progress": "loud"}, "`progress` must be one of auto, none, got 'loud'"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"devices": 0}, "`devices` must be at least 1, got 0"),
        ({"threads": 0}, "`threads` must be at least 1, got 0"),
        ({"accumulate_grad_batches": 0}, "`accumulate_grad_batches` must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "`checkpoint_every` must be at least 1, got 0"),
        ({"log_every": 0}, "`log_every` must be at least 1, got 0"),
        ({"gradient_clip_norm": 0.0}, "`gradient_clip_norm` must be positive, got 0.0"),
        ({"ema": 1.0}, r"`ema` must lie in \(0, 1\), got 1.0"),
        (
            {"compile": "reduce_overhead"},
            "`compile` must be one of default, max-autotune, none, reduce-overhead, "
            "got 'reduce_overhead'; did you mean 'reduce-overhead'?",
        ),
        (
            {"compile": "max-autotune", "accumulate_grad_batches": 2},
            "`accumulate_grad_batches` must be 1 with compile max-autotune, whose CUDA .*, got 2",
        ),
        (
            {"compile": "default", "strategy": "fsdp"},
            "`compile` must be none with strategy fsdp, .*, got default",
        ),
    ],
    ("OptimizerConfig", OptimizerConfig): [
        (
            {"name": "sdg"},
            "`name` must be one of adamw, nag, rmsprop, sgd, got 'sdg'; did you mean 'sgd'?",
        ),
        ({"decay": "some"}, "`decay` must be one of all, no_bias_norm, got 'some'"),
        ({"lr": 0.0}, "`lr` must be positive, got 0.0"),
        ({"lr": math.inf}, "`lr` must be finite, got inf"),
        ({"adder_lr": 0.0}, "`adder_lr` must be positive, got 0.0"),
        ({"momentum": 1.0}, r"`momentum` must lie in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, r"`beta2` must lie in \[0, 1\), got -0.1"),
        ({"alpha": 1.0}, r"`alpha` must lie in \[0, 1\), got 1.0"),
        ({"eps": 0.0}, "`eps` must be positive, got 0.0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0, got -1.0"),
        ({"local_lr_eta": math.nan}, "`local_lr_eta` must be finite, got nan"),
        ({"name": "nag", "momentum": 0.0}, "`momentum` must be positive for nag, got 0.0"),
    ],
    ("ScheduleConfig", ScheduleConfig): [
        ({"name": "cosin"}, "`name` must be one of .*, got 'cosin'; did you mean 'cosine'?"),
        ({"per": "batch"}, "`per` must be one of epoch, step, got 'batch'"),
        ({"warmup": -1.0}, "`warmup` must be at least 0, got -1.0"),
        ({"power": 0.0}, "`power` must be positive, got 0.0"),
        ({"pct_start": 1.0}, r"`pct_start` must lie in \(0, 1\), got 1.0"),
        ({"gamma": 1.5}, r"`gamma` must lie in \(0, 1\], got 1.5"),
        ({"decay_epochs": 0.0}, "`decay_epochs` must be positive, got 0.0"),
        ({"min_lr_ratio": 2.0}, r"`min_lr_ratio` must lie in \[0, 1\], got 2.0"),
    ],
    ("PAnnealingConfig", PAnnealingConfig): [
        ({"start": 2.5}, r"`start` must lie in \[1, 2\], got 2.5"),
        ({"fraction": 0.0}, r"`fraction` must lie in \(0, 1\], got 0.0"),
    ],
    ("early_exit", early_exit.Config): [
        ({"exit_weights": (1.0, -0.5)}, r"`exit_weights` must be at least 0, got -0.5"),
        ({"exit_weights": (math.inf,)}, r"`exit_weights` must be finite, got inf"),
        ({"alpha": 1.5}, r"`alpha` must lie in \[0, 1\], got 1.5"),
        ({"temperature": 0.0}, r"`temperature` must be positive, got 0.0"),
    ],
    ("kd", kd.Config): [
        ({"alpha": -0.1}, r"`alpha` must be at least 0, got -0.1"),
        ({"alpha": math.inf}, r"`alpha` must be finite, got inf"),
        (
            {"alpha": 1.5, "loss_weighting": "convex"},
            r"`alpha` must be at most 1 with loss_weighting convex, got 1.5",
        ),
        ({"temperature": 0.0}, r"`temperature` must be positive, got 0.0"),
        (
            {"loss_weighting": "half"},
            r"`loss_weighting` must be one of additive, convex, got 'half'",
        ),
    ],
    ("pkkd", pkkd.Config): [
        ({"beta": -1.0}, r"`beta` must be at least 0, got -1.0"),
        ({"sigma": 0.0}, r"`sigma` must be positive, got 0.0"),
        ({"sigma": math.nan}, r"`sigma` must be finite, got nan"),
        ({"sigma": "match"}, r"`sigma` must be one of .*; did you mean 'matched'"),
        (
            {"projection": "teacher"},
            r"`projection` must be one of both, none, student, got",
        ),
        ({"layers": ()}, r"`layers` must name at least one layer, got none"),
    ],
    ("graft", graft.Config): [
        ({"unit": "layer"}, r"`unit` must be one of block, stage, got 'layer'"),
        ({"block_fraction": 0.0}, r"`block_fraction` must lie in \(0, 1\), got 0.0"),
        ({"block_fraction": 1.0}, r"`block_fraction` must lie in \(0, 1\), got 1.0"),
        ({"adapter_lr": 0.0}, r"`adapter_lr` must be positive, got 0.0"),
    ],
    ("qat", qat.Config): [
        ({"bits": 3}, r"`bits` must be one of \(8, 6, 5, 4\), got 3"),
        ({"observer": "median"}, r"`observer` must be one of auto, minmax, percentile"),
        ({"momentum": 0.0}, r"`momentum` must lie in \(0, 1\], got 0.0"),
    ],
    ("supervised", supervised.Config): [
        ({"label_smoothing": -0.1}, r"`label_smoothing` must lie in \[0, 1\), got -0.1"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must lie in \[0, 1\), got 1.0"),
        ({"label_smoothing": math.nan}, "`label_smoothing` must be finite, got nan"),
    ],
}
CASES = [(*owner, *case) for owner, cases in REFUSED.items() for case in cases]


@pytest.mark.parametrize(("name", "config", "values", "message"), CASES)
def test_values_that_are_refused(
    name: str, config: type, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: {message}"):
        config(**values)
