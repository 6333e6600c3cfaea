"""`python -m sidbench`."""

from sidbench.cli import main

main()
