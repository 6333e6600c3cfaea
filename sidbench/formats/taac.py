"""taac: semantic_id_dict.json of the TAAC 2025 baseline, four integers an item from 0."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sidbench.format import Found, How
from sidbench.formats.index_json import INTEGERS, Json, read_json_sids


class TAAC(Json):
    """semantic_id_dict.json of the TAAC 2025 baseline: integers by creative id, from 0, indented by 2."""

    name = "taac"
    system = "TAAC 2025"
    file = "semantic_id_dict.json"
    endings = ("semantic_id_dict.json",)
    bases = (0,)
    paper = ""

    base: Literal[0] = 0
    #: Spaces that a level of the JSON is indented by; 0 writes one line.
    indent: Literal[0, 2] = 2

    def read(self, path: Path, how: How) -> Found:
        return read_json_sids(path, how, INTEGERS, int)
