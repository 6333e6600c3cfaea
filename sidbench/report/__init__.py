"""Boards: pure functions of records. No clock, no disk, no registry; what is printed is in a record."""

from sidbench.report.check import check
from sidbench.report.files import Boards
from sidbench.report.markdown import leaderboard
from sidbench.report.terminal import tables

__all__ = ["Boards", "check", "leaderboard", "tables"]
