"""``python -m nbmr``."""

from nbmr.cli import main

main(prog_name="nbmr")
