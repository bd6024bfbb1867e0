"""The command line of the transceiver, which this version does not contain: it says so and offers no command."""

import click

from transceiver import __version__


@click.group(help=f"The transceiver is not part of ufrag {__version__}; the relay is, see `relay --help`.")
@click.version_option(__version__, prog_name="transceiver")
def main() -> None:
    """Click shows the help above."""
