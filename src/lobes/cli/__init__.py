"""The command line: arguments in, one call, a table or JSON out.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed with one sentence
that says what to do, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM. Nothing heavy is
imported before a command needs it. `beginning`, `studies`, `finished` and `models` hold the
commands, `options` the options that several have, `app` what is common to all; `tables`, `terminal`
and `estimates` write on stdout and stderr.
"""

from lobes.cli import beginning, studies, finished, models  # noqa: F401, I001 - registers them, in this order
from lobes.cli.app import app, main

__all__ = ["app", "main"]
