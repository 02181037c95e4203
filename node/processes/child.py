"""The program that the supervisor starts for each role. It loads no command line, which saves time and memory.

Usage: python -m node.processes.child FILE --role ROLE --number N --parent PID
    [--ready DESCRIPTOR] [--keywords KEYWORD...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from inference.threads import calm_threads
from node.processes.libraries import Role, hide_pixel_libraries


def main() -> None:
    """Serve one role until SIGTERM or until the supervisor dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--role", type=Role, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="process ID of the supervisor")
    parser.add_argument("--ready", type=int, help="a pipe for a receiver to say that it listens")
    parser.add_argument("--keywords", nargs="*", default=[], help="what a receiver indexes for engines")
    arguments = parser.parse_args()
    calm_threads()
    if not arguments.role.reads_pixels:
        hide_pixel_libraries()
    from node.configuration.loading import load
    from node.errors import ConfigurationError
    from node.log import configure_log
    from node.processes.process import die_with_parent, keep_caches_in_data_folder
    from node.processes.serving import serve_role

    try:
        configuration = load(arguments.file, check_engines=False)
    except ConfigurationError as error:
        sys.exit(str(error))
    configure_log(f"{arguments.role}-{arguments.number}", configuration.log.format)
    keep_caches_in_data_folder(configuration)
    die_with_parent(arguments.parent)
    serve_role(
        configuration, arguments.role, arguments.number, arguments.ready, frozenset(arguments.keywords)
    )


if __name__ == "__main__":
    main()
