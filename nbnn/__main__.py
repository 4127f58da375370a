"""`python -m nbnn`."""

from nbnn.cli import main

raise SystemExit(main())
