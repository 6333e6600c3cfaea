"""One k-means by the library asked for (ours on torch, faiss, scikit-learn): same iterations, same starts."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np

from sidbench.errors import UsageError
from sidbench.kit.kmeans import kmeans
from sidbench.kit.nearest import Floats

Backend = Literal["auto", "torch", "faiss", "sklearn"]
Engine = Literal["torch", "faiss", "sklearn"]
PACKAGES = {"torch": "torch", "faiss": "faiss-cpu", "sklearn": "scikit-learn"}


def choose(backend: Backend) -> Engine:
    """The engine a name stands for. `auto` is torch, always there: no record depends on what else is."""
    if backend == "faiss" and find_spec("faiss") is None:
        raise UsageError(
            "backend = 'faiss' needs faiss, which is not installed: pip install 'sidbench[cpu]' "
            f"(or choose another backend: {', '.join(b for b in get_args(Backend) if b != 'faiss')})"
        )
    return "torch" if backend == "auto" else backend


def version_of(engine: Engine) -> str:
    """The version of the library that runs."""
    if engine == "faiss":
        import faiss

        return str(faiss.__version__)
    return version(PACKAGES[engine])


def centers(x: Floats, k: int, engine: Engine, *, iters: int, starts: int, seed: int, device: str) -> Floats:
    """k centres of the rows."""
    if engine == "torch":
        return kmeans(x, k, iters=iters, starts=starts, seed=seed, device=device).centers
    if engine == "faiss":
        return _faiss(x, k, iters, starts, seed)
    return _sklearn(x, k, iters, starts, seed)


def _faiss(x: Floats, k: int, iters: int, starts: int, seed: int) -> Floats:
    import faiss

    # Its defaults sample 256 rows a centre and warn below 39: all rows, and no talk on stderr.
    found = faiss.Kmeans(
        x.shape[1],
        k,
        niter=iters,
        nredo=starts,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    found.train(x)
    return np.asarray(found.centroids, dtype=np.float32).reshape(k, -1)


def _sklearn(x: Floats, k: int, iters: int, starts: int, seed: int) -> Floats:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: the residual loop's rule for unused codes covers it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(k, n_init=starts, max_iter=iters, tol=0.0, random_state=seed).fit(x)
    return np.asarray(found.cluster_centers_, dtype=np.float32)
