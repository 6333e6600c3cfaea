"""A search path, no code: tokenizers from the wheel, the checkout's plugins/ and SIDBENCH_PLUGIN_PATH."""

import os
from pathlib import Path

_root = Path(__file__).resolve().parent.parent.parent
# Only this project's own checkout has a pyproject.toml here; beside site-packages it must not match.
if (_root / "pyproject.toml").is_file() and (_root / "plugins").is_dir():
    __path__.append(str(_root / "plugins"))
__path__.extend(p for p in os.environ.get("SIDBENCH_PLUGIN_PATH", "").split(os.pathsep) if p)
