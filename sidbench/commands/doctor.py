"""sidbench doctor: is this installation in order?"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from sidbench import provenance, registry
from sidbench.dataset import cache_folder


def doctor(results: Path, *, as_json: bool) -> int:
    """Print what was found; 1 when something needs putting right."""
    problems: list[str] = []
    facts: dict[str, Any] = {"versions": provenance.versions(), "device": _device(problems)}
    facts["threads"] = {
        "cores": provenance.available_cores(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
    }
    facts["faiss"] = _faiss(problems)
    facts["folders"] = {"results": _writable(results, problems), "cache": _writable(cache_folder(), problems)}
    scan = registry.scan()
    facts["plugins"] = {kind: len(found) for kind, found in scan.found.items()}
    problems += [f"plugin {b.name} from {b.origin} cannot be used: {b.reason}" for b in scan.broken]
    for folder in filter(None, os.environ.get("SIDBENCH_DATA", "").split(os.pathsep)):
        if not Path(folder).expanduser().is_dir():
            problems.append(f"SIDBENCH_DATA names {folder}, which is no folder")
    if as_json:
        sys.stdout.write(json.dumps({**facts, "problems": problems}, indent=2) + "\n")
    else:
        _print(facts, problems)
    return 1 if problems else 0


def _device(problems: list[str]) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cuda": torch.cuda.is_available(), "torch_built_for_cuda": torch.version.cuda}
    if found["cuda"]:
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    elif torch.version.cuda and Path("/proc/driver/nvidia").exists():
        problems.append(
            f"there is an NVIDIA driver, but torch (built for CUDA {torch.version.cuda}) finds no GPU: "
            "the driver may be too old for this build"
        )
    found["bf16_on_cpu"] = bool(torch.cpu._is_avx512_bf16_supported())
    return found


def _faiss(problems: list[str]) -> dict[str, Any]:
    owners = sorted(set(packages_distributions().get("faiss", [])))
    found: dict[str, Any] = {"installed_by": owners}
    if len(owners) > 1:
        problems.append(
            f"{' and '.join(owners)} overwrite each other's files; uninstall all, then install one "
            "(faiss-gpu holds the CPU part too)"
        )
    if owners:
        try:
            import faiss

            found["version"] = faiss.__version__
            found["gpus"] = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        except Exception as e:  # a broken faiss fails in many ways, and all are to be told
            problems.append(
                f"faiss is installed but does not import: {type(e).__name__}: {e}; install it again"
            )
    return found


def _writable(folder: Path, problems: list[str]) -> str:
    """The nearest folder that exists decides; nothing is made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as e:
        problems.append(f"{folder} cannot be written ({e.strerror})")
    return str(folder)


def _print(facts: dict[str, Any], problems: list[str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for title, values in facts.items():
        console.print(f"[bold]{title}[/bold]")
        for key, value in values.items():
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            console.print(f"  {key:<22} {escape(str(shown))}")
    if problems:
        for problem in problems:
            console.print(Text(f"✗ {problem}", style="red"))
    else:
        console.print("✓ nothing to put right", style="green")
