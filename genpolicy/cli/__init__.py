"""The ``genpolicy`` command: thin modules that read arguments and call the library.

Each subcommand is a module with ``HELP`` (its help text) and ``run(argv) -> int`` (exit code).
"""
