"""`python -m clipcanvas`: the command line."""

from clipcanvas.cli.main import main

main()
