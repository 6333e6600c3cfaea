"""The commands that take and leave files: data, embeddings, fitted tokenizers, SIDs. Imports nothing heavy."""

from __future__ import annotations

import typer

app = typer.Typer()
