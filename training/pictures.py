"""Fill a folder with the images that the demo models are trained on, and go on where a run stopped.

    python -m training.pictures data/pictures

`training.data.images` says what the folder holds.
"""

import argparse
import os
from pathlib import Path

from training.data import images, sets


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="that render; default: %(default)s"
    )
    chosen = parser.parse_args()
    images.fill(chosen.folder, chosen.processes)
    print(f"{'set':<26} {'images':>8}  {'license':<16} attribution")
    for found in (
        *images.training(chosen.folder),
        *(images.held_out(chosen.folder, held.name) for held in sets.HELD_OUT),
    ):
        row = found.chosen
        use = "; to measure with, never trained on" if row.is_held_out else ""
        print(f"{row.name:<26} {len(found.places):>8}  {row.license:<16} {row.attribution}{use}")


if __name__ == "__main__":
    main()
