"""Runs jobs for the local launcher; see ``worker.py``."""

from genpolicy.sweeps.worker import main

raise SystemExit(main())
