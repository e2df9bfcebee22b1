"""`carlarl warmup`: run the active version before the first request comes."""

import json

import click

from carlarl.commands import options


@click.command()
@options.url_option
@options.api_key_option
@options.json_option
def warmup(url: str | None, api_key: str | None, as_json: bool) -> None:
    """Run the active version a few times, so that the next request is fast.

    Example: carlarl warmup
    """
    answer = options.call_gateway(url, "/warmup", api_key)
    text = f"{answer['status']} in {answer['timingMs']:.1f} ms on {answer['device']}"
    click.echo(json.dumps(answer) if as_json else text)
