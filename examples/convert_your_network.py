"""Take the multiplications out of a network of your own, and train it with a plain loop."""

from __future__ import annotations

import torch
from torch import nn

from mulfree import cost, data, models, training


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    # A normalisation has to follow every adder layer: its outputs are large and never positive.
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def main() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        block(1, 16),
        block(16, 32),
        nn.MaxPool2d(2),
        block(32, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    models.convert(network, operator="adder2d", keep=("first", "last"))

    splits = data.load(data.DataConfig(name="digits", batch_size=64))
    batches = data.BatchLoader(
        splits.train, 64, train=True, seed=0, transform=splits.train_transform
    )
    optimizer = training.AdaptiveLocalLR(
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    )
    for epoch in range(3):
        batches.set_epoch(epoch)
        for images, labels in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")

    total = cost.count(network, (1, 8, 8)).total
    print(f"{total.cost.mul:,} multiplications and {total.cost.add:,} additions an image")


if __name__ == "__main__":
    main()
