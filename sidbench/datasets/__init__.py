"""A search path, no code: datasets from the wheel and the checkout's datasets/."""

from pathlib import Path

_root = Path(__file__).resolve().parent.parent.parent
# Only this project's own checkout has a pyproject.toml here; beside site-packages it must not match.
if (_root / "pyproject.toml").is_file() and (_root / "datasets").is_dir():
    __path__.append(str(_root / "datasets"))
