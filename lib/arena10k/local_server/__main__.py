"""`python -m arena10k.local_server --port 8000`: the embedded model behind an OpenAI-compatible endpoint."""

import errno
import ipaddress
import os
import sys
import threading

import click
from aiohttp import web

from arena10k.errors import ArenaError
from arena10k.local_server.app import application
from arena10k.local_server.model import WeightsMissing, source


class PortTaken(click.ClickException, ArenaError):
    """The port cannot be served on."""


def _loopback(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        local = value == "localhost" or ipaddress.ip_address(value).is_loopback
    except ValueError:
        local = False
    if not local:
        raise click.BadParameter("only loopback addresses are served: there is no authentication")
    return value


def _exit_when_stdin_closes() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, callback=_loopback, help="Loopback address.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--until-stdin-closes", is_flag=True, help="Exit at the end of standard input (the parent has died).")
def main(host: str, port: int, until_stdin_closes: bool) -> None:
    """Serve the embedded model on a loopback port."""
    try:
        source()
    except WeightsMissing as error:
        raise click.ClickException(str(error)) from error
    if until_stdin_closes:
        threading.Thread(target=_exit_when_stdin_closes, daemon=True).start()
    try:
        web.run_app(application(), host=host, port=port, handler_cancellation=True)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is in use by another program" if error.errno == errno.EADDRINUSE else "may not be opened by this user"
        raise PortTaken(f"port {port} of {host} {why}: choose another one with --port") from error


if __name__ == "__main__":
    main()
