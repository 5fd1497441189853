"""TensorBoard's event files beside ``log.csv``, for people who watch trainings there."""

from __future__ import annotations

from pathlib import Path

from edge_fer.core.errors import MissingDependencyError
from edge_fer.train.loop import EpochLog

FOLDER = "tensorboard"


class EventLog:
    """Writes one point a figure and epoch into ``<out>/tensorboard``.

    Args:
        out: the run's folder.
        first_epoch: points of earlier runs from this epoch on are disregarded by TensorBoard, so that a training that
            was interrupted and continued shows one line.

    Raises:
        MissingDependencyError: the package tensorboard is not installed.
    """

    def __init__(self, out: Path, first_epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError("tensorboard", extra="tensorboard", purpose="--tensorboard") from None
        self._writer = SummaryWriter(str(out / FOLDER), purge_step=first_epoch)

    def add(self, row: EpochLog) -> None:
        """Add an epoch: losses, top-1, learning rate, speed. The step is the number of the epoch, from 0."""
        for name, value in (
            ("loss/training", row.train_loss),
            ("loss/held out", row.val_loss),
            ("top-1/training", row.train_top1),
            ("top-1/held out", row.val_top1),
            ("learning rate", row.lr),
            ("images a second", row.images_per_s),
        ):
            self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
