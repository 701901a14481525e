"""`python -m clipcanvas`: the command line."""

from clipcanvas.cli import main

main()
