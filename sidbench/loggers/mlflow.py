"""mlflow: a run for each start of a row, on the server that a person names, or in results/logs/mlflow.db."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from sidbench.logger import Logger, Row
from sidbench.record import RunRecord

#: Seconds between two calls that write numbers.
APART = 2.0


class MLflow(Logger):
    """Curves, parameters and results for `mlflow ui --backend-store-uri sqlite:///results/logs/mlflow.db`."""

    name = "mlflow"
    needs = ("mlflow", "sqlalchemy", "alembic")

    #: Where to: a server's address or a database; empty = MLFLOW_TRACKING_URI, else results/logs/mlflow.db.
    uri: str = ""
    #: The experiment that the runs belong to.
    experiment: str = "sidbench"

    def opened(self, folder: Path) -> None:
        from mlflow import MlflowClient

        for talker in ("mlflow", "alembic"):  # each table of a new database is news to them
            logging.getLogger(talker).setLevel(logging.WARNING)
        uri, files = self.uri or os.environ.get("MLFLOW_TRACKING_URI", ""), None
        if not uri:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
            files = (folder / "mlflow-files").resolve().as_uri()
        self.client = MlflowClient(tracking_uri=uri)
        found = self.client.get_experiment_by_name(self.experiment)
        self.place = (
            self.client.create_experiment(self.experiment, artifact_location=files)
            if found is None
            else found.experiment_id
        )
        self.run, self.written = "", time.monotonic()
        self.waiting: list[Any] = []

    def started(self, row: Row) -> None:
        from mlflow.entities import Param

        self.waiting = []  # of a row before that could not be written
        tags = {"sidbench.run": row.run, "sidbench.label": row.label, "sidbench.dataset": row.dataset}
        self.run = self.client.create_run(self.place, run_name=row.name, tags=tags).info.run_id
        params = [Param(_name(name), str(value)[:500]) for name, value in row.params.items()]
        for at in range(0, len(params), 100):  # as many as a server takes at once
            self.client.log_batch(self.run, params=params[at : at + 100])

    def numbers(self, row: Row, stage: str, step: int, numbers: dict[str, float]) -> None:
        self._log({f"{stage}/{name}": value for name, value in numbers.items()}, step)

    def finished(self, row: Row, record: RunRecord) -> None:
        self._log({f"result/{name}": value for name, value in record.metrics.items()}, 0)
        if record.error is not None:
            self.client.set_tag(
                self.run, "sidbench.error", f"{record.error['stage']}: {record.error['message']}"[:500]
            )
        self._end("FINISHED" if record.status == "ok" else "FAILED")

    def closed(self) -> None:
        self._end("KILLED")

    def _log(self, numbers: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        at = int(time.time() * 1000)
        self.waiting += [Metric(_name(name), value, at, step) for name, value in numbers.items()]
        if time.monotonic() - self.written > APART:
            self._write()

    def _write(self) -> None:
        """A call is a transaction, or goes over a network: many numbers in one."""
        for first in range(0, len(self.waiting), 500):
            self.client.log_batch(self.run, metrics=self.waiting[first : first + 500])
        self.waiting, self.written = [], time.monotonic()

    def _end(self, status: str) -> None:
        if self.run:
            try:
                self._write()
            finally:
                run, self.run = self.run, ""
                self.client.set_terminated(run, status)


def _name(name: str) -> str:
    """As MLflow takes names: `ndcg@10` is `ndcg_10` there."""
    return re.sub(r"[^\w./ -]", "_", name)
