"""tensorboard: event files below results/logs/tensorboard, a folder for each start of a row."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sidbench.logger import Logger, Row
from sidbench.record import RunRecord


class TensorBoard(Logger):
    """Curves, parameters and results for `tensorboard --logdir results/logs/tensorboard`."""

    name = "tensorboard"
    needs = ("tensorboard",)

    def opened(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = None
        self.writer_of = SummaryWriter
        self.folder = folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)

    def started(self, row: Row) -> None:
        # A row that goes on begins a folder of its own: curves follow each other, none is written over.
        start = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
        self.writer = self.writer_of(str(self.folder / row.place / start), flush_secs=10)
        self.writer.add_text("row", row.name)
        table = "\n".join(f"| {name} | {value} |" for name, value in row.params.items())
        self.writer.add_text("parameters", f"| name | value |\n| :-- | :-- |\n{table}")

    def numbers(self, row: Row, stage: str, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)

    def finished(self, row: Row, record: RunRecord) -> None:
        from torch.utils.tensorboard.summary import hparams

        results = {f"result/{name}": value for name, value in record.metrics.items()}
        for name, value in results.items():
            self.writer.add_scalar(name, value, 0)
        # What `add_hparams` writes, without the folder of its own that it makes.
        for summary in hparams(row.params, results):  # type: ignore[no-untyped-call]
            self.writer.file_writer.add_summary(summary)
        if record.error is not None:
            self.writer.add_text("error", f"{record.error['stage']}: {record.error['message']}")
        self.closed()

    def closed(self) -> None:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.close()
