"""Pieces of work as Ray tasks: a worker or node that dies costs what it had in hand, which is done again."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sidbench import parts, provenance
from sidbench.engines import Engine, Lost, Needs, Work
from sidbench.errors import SidbenchError, StorageError, UsageError

#: How often a piece is tried again whose worker or node has died.
RETRIES = 3
#: Seconds between two looks at what is done, so that Ctrl-C is heard.
LOOK = 1.0
#: Seconds that the head of a cluster has to answer.
PATIENCE = 10.0
#: Where a plugin, a dataset or a downloaded file is looked for; workers look there too.
FOLDERS = ("SIDBENCH_PLUGIN_PATH", "SIDBENCH_DATA", "SIDBENCH_CACHE")


@contextmanager
def joined(address: str | None) -> Iterator[Engine]:
    """The cluster at an address (else RAY_ADDRESS, else one of this machine alone), left at the end."""
    if find_spec("ray") is None:
        raise UsageError("--engine ray needs Ray, which is not installed: pip install 'sidbench[ray]'")
    # Read by Ray as it starts: nothing is sent anywhere, a task without a GPU is not denied one, and workers
    # have the rank of any other process, which timings depend on.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():  # by whoever called us, who will also end it
        yield Cluster(ray)
        return
    address = address or os.environ.get("RAY_ADDRESS")
    given: dict[str, Any] = _alone()
    if address:
        _answers(address)
        given = {"address": address}
    paths = {v: _absolute(os.environ[v]) for v in FOLDERS if os.environ.get(v)}
    if paths:
        given["runtime_env"] = {"env_vars": paths}
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **given)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as e:
        raise _no_cluster(address, e) from e
    # It would print to standard output, pages of it, where a worker or node dies; `warn` says it in a line.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def _alone() -> dict[str, Any]:
    """A cluster of this machine, which ends with this process; no more cores than may be used."""
    return {"address": "local", "num_cpus": provenance.available_cores(), "include_dashboard": False}


def _answers(address: str) -> None:
    """Somebody listens there: Ray itself would wait most of a minute and then end the process."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or "/" in host or not port.isdecimal():
        raise UsageError(
            f"--address {address} does not fit; expected HOST:PORT as `ray start --head` printed it, or auto"
        )
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as e:
        raise UsageError(
            f"no Ray cluster answers at {address} ({e}); start one with `ray start --head --port {port}`, or "
            "look which address it printed"
        ) from None


def _absolute(paths: str) -> str:
    return os.pathsep.join(str(Path(p).expanduser().absolute()) for p in paths.split(os.pathsep) if p)


def _no_cluster(address: str | None, error: Exception) -> UsageError:
    first = (str(error).strip().splitlines() or [""])[0]
    what = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot start on this machine"
    return UsageError(
        f"{what} ({type(error).__name__}: {first}). Expected the address that `ray start --head` printed, "
        "the same versions of Ray and Python on every node, and, where tokens are asked for, "
        "RAY_AUTH_MODE=token with the same token everywhere"
    )


@dataclass(frozen=True)
class Mark:
    """A file that is in the folder of the results, and nowhere else: who reads it sees that folder."""

    path: Path
    token: str
    #: Where names of files are relative to.
    home: Path

    @classmethod
    @contextmanager
    def laid(cls, folder: Path) -> Iterator[Mark]:
        token = secrets.token_hex(16)
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                handle, path = stack.enter_context(parts.file_beside(folder.absolute() / "shared"))
                with os.fdopen(handle, "w") as f:
                    f.write(token)
                path.chmod(0o644)
            except OSError as e:
                raise StorageError(f"{folder} cannot be written to ({e.strerror})") from None
            yield cls(path, token, Path.cwd())

    def check(self, node: str) -> None:
        """Fail where this process sees another folder of that name, or none."""
        with suppress(OSError, UnicodeDecodeError):
            if self.path.read_text() == self.token:
                with suppress(OSError):  # names that are whole need no home
                    os.chdir(self.home)
                return
        raise StorageError(
            f"the node {node} does not see {self.path.parent} as it is here: with --engine ray results lie "
            "in a folder that all nodes share under one path (NFS, Lustre, a mounted volume). Name such a "
            "folder, or mount it on that node; what is done already stands"
        )


class Cluster(Engine):
    """A Ray cluster that this process has joined."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray

    def nodes(self) -> list[dict[str, float]]:
        """What each node that lives has to give, those without any core left out."""
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [resources for resources in alive if resources.get("CPU", 0) >= 1]

    def look(self, dead: set[str]) -> None:
        """Say which nodes have died that had not."""
        for node in self.ray.nodes():
            if not node["Alive"] and node["NodeID"] not in dead:
                dead.add(node["NodeID"])
                where = node["NodeManagerAddress"]
                self.warn(f"the node {where} has died: what it had in hand is done again elsewhere")

    def device(self, asked: str) -> str:
        gpus = max((node.get("GPU", 0) for node in self.nodes()), default=0)
        if asked == "auto":
            return "cuda" if gpus else "cpu"
        if asked not in ("cpu", "cuda"):
            raise UsageError(
                f"device = {asked!r} does not go with --engine ray, which gives every task a GPU of its own; "
                "expected auto, cpu or cuda"
            )
        if asked == "cuda" and not gpus:
            raise UsageError("device = 'cuda' is not there: no node of the Ray cluster has a GPU to give")
        return asked

    def threads(self, asked: int) -> int:
        return asked or int(min((node["CPU"] for node in self.nodes()), default=1))

    def room(self, needs: Needs) -> tuple[int, int]:
        """How many pieces run at a time if there is nothing else, and on how many nodes."""
        each = [
            int(min(node["CPU"] // needs.cpus, node.get("GPU", 0) // needs.gpus if needs.gpus else 1 << 30))
            for node in self.nodes()
        ]
        return sum(each), sum(n > 0 for n in each)

    def said(self, needs: Needs) -> str:
        places, nodes = self.room(needs)
        own = f"{needs.cpus} core{'s' * (needs.cpus > 1)}{' and a GPU' if needs.gpus else ''}"
        return f"Ray: up to {places} at a time on {nodes} node{'s' * (nodes > 1)}, each with {own}"

    def each(
        self,
        work: Work,
        shared: Any,
        todo: Iterable[int],
        needs: Needs,
        folder: Path,
        started: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        if not self.room(needs)[0]:
            best = max((node["CPU"] for node in self.nodes()), default=0)
            raise UsageError(
                f"no node of the Ray cluster has {needs.cpus} cores{' and a GPU' if needs.gpus else ''} for "
                f"one task; the largest has {best:.0f} cores. Ask for fewer with --threads, or add a node"
            )
        task = self.ray.remote(_piece).options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        with Mark.laid(folder) as mark:
            # In a list, so that a worker fetches it once and not with every piece.
            common = [self.ray.put(shared)]
            waiting = {task.remote(work, common, i, mark): i for i in todo}
            dead = {node["NodeID"] for node in self.ray.nodes() if not node["Alive"]}
            looked = time.monotonic()
            try:
                while waiting:
                    for ref in self.ray.wait(list(waiting), timeout=LOOK)[0]:
                        i = waiting.pop(ref)
                        yield i, self._result(ref)
                    if time.monotonic() - looked > LOOK:
                        self.look(dead)
                        looked = time.monotonic()
            finally:
                for ref in waiting:
                    self.ray.cancel(ref, force=True)

    def _result(self, ref: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as e:
            raise (e.cause if isinstance(e.cause, SidbenchError) else e) from None
        except errors.RuntimeEnvSetupError as e:
            raise UsageError(f"the Ray cluster cannot prepare a worker: {e}") from e
        except errors.RayError as e:
            first = (str(e).strip().splitlines() or [""])[0]
            return Lost(f"its worker died {RETRIES + 1} times; the last said {type(e).__name__}: {first}")


def _piece(work: Work, common: list[Any], i: int, mark: Mark) -> Any:
    """One piece, in a worker."""
    import ray

    mark.check(ray.util.get_node_ip_address())
    return work(_fetched(common[0]), i)


@lru_cache(maxsize=1)
def _fetched(ref: Any) -> Any:
    """What all pieces share, the same object for every piece of this process."""
    import ray

    return ray.get(ref)
