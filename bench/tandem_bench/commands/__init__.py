"""One module per subcommand of bench/run, found by its name.

A module has HELP (one line), add_arguments(parser) for flags of its own, and run(args) -> exit code. `args` also holds
the flags of every subcommand, which main.py lists.
"""
