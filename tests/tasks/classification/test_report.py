from __future__ import annotations

from mulfree.tasks.classification import report


def test_epoch_line() -> None:
    row = {"train_loss": 0.5, "test_loss": 0.25, "test_accuracy": 0.75}
    assert report.epoch_line(row, "train") == "train loss 0.5000"
    assert report.epoch_line(row, "test") == "test loss 0.2500 accuracy 75.00%"
    compared = row | {"test_teacher_accuracy": 0.8, "test_agreement": 0.9, "test_kl": 0.1}
    line = "test loss 0.2500 accuracy 75.00% teacher 80.00% agreement 90.00%"
    assert report.epoch_line(compared, "test") == line


def test_panels() -> None:
    assert report.panels(["loss"]) == [("accuracy", ["accuracy"]), ("loss", ["loss"])]
    compared = ["loss", "accuracy", "teacher_accuracy", "agreement", "kl"]
    assert report.panels(compared) == [
        ("accuracy", ["accuracy", "teacher_accuracy"]),
        ("agreement", ["agreement"]),
        ("loss", ["loss"]),
    ]


def test_summary() -> None:
    metrics = {"test_accuracy": 0.75, "test_loss": 0.5}
    assert report.summary(metrics) == "75.00% of the test images are right (loss 0.5000)"
    metrics |= {"test_teacher_accuracy": 0.8, "test_agreement": 0.9}
    line = "its teacher: 80.00%, and both predict the same class for 90.00% of them"
    assert report.comparison(metrics, "teacher") == line
