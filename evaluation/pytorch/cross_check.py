"""Trains in PyTorch what forgetd trained, takes the same reference step, and compares the weights.

    cargo run --release --example cross_check -- FOLDER
    python cross_check.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

# Both sides compute in 32-bit floats and sum in different orders. Adam's steps are nearly signs of
# gradients: where a gradient is about zero, rounding decides its sign, and a few weights come apart
# by part of a step. So the median is held to a hundredth of a step of 1e-3, and the largest
# difference to one step's length.
TOLERANCE_MEDIAN = 1e-5
TOLERANCE_LOSS = 1e-4
TOLERANCE_STEP = 1e-6
# Share of the weights that may miss the step's tolerance: those whose gradient is rounding noise,
# so that its sign is.
STRAYS_MAX = 1e-3


class Residual(nn.Module):
    def __init__(self, shape: list, body: list, shortcut: list) -> None:
        super().__init__()
        self.body = sequence(shape, body)
        self.shortcut = sequence(shape, shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


def sequence(shape: list, specs: list) -> nn.Sequential:
    """The layers for inputs of `shape`, without the batch."""
    layers = []
    for spec in specs:
        kind, value = next(iter(spec.items())) if isinstance(spec, dict) else (spec, None)
        if kind == "conv2d":
            stride, padding = value.get("stride", 1), value.get("padding", 0)
            layers.append(nn.Conv2d(shape[0], value["out"], value["kernel"], stride, padding))
        elif kind == "linear":
            layers.append(nn.Linear(shape[0], value))
        elif kind == "group_norm":
            layers.append(nn.GroupNorm(value, shape[0]))
        elif kind == "max_pool2d":
            layers.append(nn.MaxPool2d(value))
        elif kind == "global_avg_pool2d":
            layers.append(nn.AdaptiveAvgPool2d(1))
        elif kind == "residual":
            layers.append(Residual(shape, value["body"], value.get("shortcut", [])))
        elif kind == "relu":
            layers.append(nn.ReLU())
        elif kind == "flatten":
            layers.append(nn.Flatten())
        else:
            raise SystemExit(f"this script does not know the layer {kind!r}")
        with torch.no_grad():
            shape = list(layers[-1](torch.zeros(1, *shape)).shape[1:])
    return nn.Sequential(*layers)


def train(model: nn.Sequential, data: dict, recipe: dict) -> None:
    """Adam on the mean cross entropy, plus alpha times the norm of each tensor's gradient."""
    alpha = recipe["gradient_restriction"]
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe["learning_rate"])
    for order in data["order"]:
        for rows in order.split(recipe["batch_size"]):
            loss = nn.functional.cross_entropy(model(data["x"][rows]), data["y"][rows])
            if alpha > 0:
                gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
                loss = loss + alpha * sum(gradient.norm() for gradient in gradients)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def reference_step(model: nn.Sequential, data: dict, forgotten: int) -> None:
    """One step of a fresh Adam along the retained loss's gradient less the forgotten one's."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    optimizer.zero_grad()
    x, y, loss = data["x"], data["y"], nn.functional.cross_entropy
    retained = loss(model(x[forgotten:]), y[forgotten:])
    (retained - loss(model(x[:forgotten]), y[:forgotten])).backward()
    optimizer.step()


def differences(model: nn.Sequential, expected: dict) -> torch.Tensor:
    found = model.state_dict()
    if found.keys() != expected.keys():
        raise SystemExit(f"tensors {sorted(found)} here, {sorted(expected)} there")
    return torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])


def mean_loss(model: nn.Sequential, data: dict) -> float:
    with torch.no_grad():
        return nn.functional.cross_entropy(model(data["x"]), data["y"]).item()


def check(folder: Path) -> bool:
    spec, recipe = (json.loads((folder / f"{n}.json").read_text()) for n in ("network", "recipe"))
    data, first, trained, updated = (
        load_file(folder / f"{name}.safetensors") for name in ("data", "first", "trained", "updated")
    )
    model = sequence(spec["input"], spec["layers"])
    model.load_state_dict(first)
    before = mean_loss(model, data)
    train(model, data, recipe)
    apart = differences(model, trained)
    largest, median = apart.max().item(), apart.median().item()
    here = mean_loss(model, data)
    model.load_state_dict(trained)
    there = mean_loss(model, data)
    reference_step(model, data, recipe["forgotten"])
    step = differences(model, updated)
    strays = (step > TOLERANCE_STEP).float().mean().item()
    fits = (
        median <= TOLERANCE_MEDIAN
        and largest <= recipe["learning_rate"]
        and abs(here - there) <= TOLERANCE_LOSS
        and strays <= STRAYS_MAX
    )
    print(
        f"{folder.name}: {'agrees' if fits else 'DIFFERS'}. Trained weights differ by"
        f" {median:.1e} in the median and {largest:.1e} at most; loss from {before:.4f} to {here:.5f} here and {there:.5f} there. After the"
        f" step {strays:.2%} of the weights differ by more than {TOLERANCE_STEP:.0e}"
        f" (median {step.median().item():.1e})."
    )
    return fits


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/network.json"))
    if not folders:
        raise SystemExit(f"nothing in {sys.argv[1]}; run the cargo example first")
    sys.exit(0 if all([check(folder) for folder in folders]) else 1)


if __name__ == "__main__":
    main()
