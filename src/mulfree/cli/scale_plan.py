"""`mulfree scale plan`: compound scaling to a cost, beside each dimension alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from mulfree.cli.arguments import Parser, positive
from mulfree.cli.output import print_text
from mulfree.cli.scale import dotted
from mulfree.cost import ENERGY_45NM
from mulfree.environment import environment
from mulfree.models.scaling import ALPHA, BETA, GAMMA
from mulfree.scaling import Plan, fit, single
from mulfree.scaling.report import plan_table
from mulfree.training import read_config

SCHEMA = "mulfree.scale-plan/1"

_EPILOG = """\
The first row is the largest network within the target by compound scaling: depth alpha^phi, width
beta^phi and resolution gamma^phi times those of the model. The others scale one dimension alone, to
the cost nearest to the target, for comparison (phi is log2 of their nominal growth).

Multiply-adds are those of the network with convolutions, the FLOPs of arXiv 1905.11946. Additions
and energy (arithmetic, 45 nm) are those of its own operator. Latency is PyTorch's in float32 on
this machine, one image, median of 5.

  mulfree scale plan --model.name resnet20 --target-mul-add 1.6e8
  mulfree scale plan --model.name resnet18 --model.operator adder2d --target-energy 8e-3"""

_TARGETS = {
    "mul-add": ("N", "most multiply-adds, such as 1.8e9"),
    "additions": ("N", "most additions"),
    "energy": ("J", "most energy in joules, such as 2e-3"),
    "latency": ("S", "longest time in seconds, measured"),
}
_PICO = 1e12


def main(argv: list[str]) -> int:
    """Run the command."""
    words, rest = dotted(argv, ("model",))
    parser = Parser("mulfree scale plan", "Scale a network to a cost.", _EPILOG)
    parser.add_argument("--model.name", metavar="NAME", help="a network that can be scaled")
    parser.add_argument("--model.operator", metavar="NAME", help="default: adder2d")
    parser.add_argument("--model.options.OPTION", metavar="VALUE", help="of the network at phi 0")
    parser.add_argument("--config", metavar="FILE.yaml", help="recipe with a section model")
    targets = parser.add_mutually_exclusive_group(required=True)
    for measure, (unit, text) in _TARGETS.items():
        targets.add_argument(f"--target-{measure}", type=float, metavar=unit, help=text)
    for name, value in (("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA)):
        parser.add_argument(
            f"--{name}", type=float, default=value, metavar="R", help=f"default: {value}"
        )
    parser.add_argument(
        "--image-size", type=positive, metavar="S", help="at phi 0 (default: the model's)"
    )
    parser.add_argument("--num-classes", type=positive, default=10, metavar="N", help="default: 10")
    parser.add_argument("--dtype", choices=ENERGY_45NM, default="fp32", help="default: fp32")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(rest)
    model = read_config(words).model
    measure, target = _target(arguments)
    options: dict[str, Any] = {
        "operator": model.operator,
        "num_classes": arguments.num_classes,
        "base_size": arguments.image_size,
        **model.options,
    }
    ratios = (arguments.alpha, arguments.beta, arguments.gamma)
    compound = fit(model.name, measure, target, ratios, dtype=arguments.dtype, **options)
    plans = [compound, *single(model.name, measure, target, dtype=arguments.dtype, **options)]
    if arguments.json:
        content = {
            "schema": SCHEMA,
            "environment": environment(),
            "target": {measure: target},
            "dtype": arguments.dtype,
            "ratios": dict(zip(("alpha", "beta", "gamma"), ratios, strict=True)),
            "plans": [_values(plan) for plan in plans],
        }
        print(json.dumps(content, indent=2))
        return 0
    title = f"{model.name} {model.operator}, {measure} at most {_shown(measure, target)}"
    print_text(plan_table(title, plans, latency=measure == "latency").rstrip("\n"))
    return 0


def _target(arguments: Any) -> tuple[str, float]:
    """Kind and value of the target; energy in pJ."""
    given = {name: getattr(arguments, f"target_{name.replace('-', '_')}") for name in _TARGETS}
    ((measure, value),) = ((name, value) for name, value in given.items() if value is not None)
    return measure, value * _PICO if measure == "energy" else value


def _shown(measure: str, target: float) -> str:
    units = {"energy": (f"{target / _PICO:.4g}", " J"), "latency": (f"{target:.4g}", " s")}
    return "".join(units.get(measure, (f"{target:.4g}", "")))


def _values(plan: Plan) -> dict[str, Any]:
    return {
        "scaling": plan.scaling,
        "phi": plan.phi,
        "name": plan.scaled.name,
        "options": dict(plan.scaled.options),
        "image_size": plan.scaled.image_size,
        **asdict(plan.costs),
        "measured": plan.measured,
    }
