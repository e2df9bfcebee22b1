"""`carlarl export`: write artifacts into the model repository."""

import json
from pathlib import Path

import click

from carlarl.commands import options
from gateway.config.settings import read_settings


@click.command()
@options.artifacts_option
@options.repository_option
@click.option(
    "--version",
    "versions",
    type=options.VERSION,
    multiple=True,
    help="Only this one. [default: all]",
)
@click.option("--activate", type=options.VERSION, help="Make this version the active one.")
@click.option(
    "--formats",
    type=options.FORMAT_LIST,
    help="Formats to write, of onnx, torchscript and tensorrt; the first is served. "
    "[default: onnx,torchscript; of an ONNX model onnx]",
)
@click.option(
    "--compute-capability",
    "capabilities",
    type=options.CAPABILITIES,
    multiple=True,
    help="Kinds of GPU that TensorRT engines are for, like 8.6. Repeat it, or separate them by "
    "commas. [default: the GPU here with NVIDIA's tensorrt, else 8.6,8.9,12.0]",
)
@click.option(
    "--flavour",
    type=click.Choice(["python", "native"]),
    default="python",
    help="What serves it: Triton's Python backend, which `carlarl serve` starts, or the C++ "
    "backends of a stock Triton. [default: python]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    help="Of convolutions and matrix products on a GPU, in torchscript and tensorrt; a CPU always "
    "computes in fp32. [default: fp32]",
)
@options.json_option
def export(
    artifacts: Path | None,
    repository: Path | None,
    versions: tuple[str, ...],
    activate: str | None,
    formats: tuple[str, ...] | None,
    capabilities: tuple[tuple[str, ...], ...],
    flavour: str,
    precision: str,
    as_json: bool,
) -> None:
    """Write artifacts into the model repository: all of them, or nothing.

    The active version stays active unless --activate names another.

    \b
    Example: carlarl export --version v0.2.0 --activate v0.2.0
    Example: carlarl export --formats onnx,torchscript,tensorrt --compute-capability 8.6
    Example: carlarl export --flavour native --repository native_repository
    """
    if capabilities and "tensorrt" not in (formats or ()):
        raise click.UsageError("--compute-capability is for tensorrt: add it to --formats")
    with options.extra("convert"):
        from converters.artifact import artifact
        from converters.export import export
    from rich.console import Console

    settings = read_settings(artifact_dir=artifacts, model_repository=repository)
    source, target = settings.artifact_dir, settings.model_repository
    key = options.public_key(None)
    folders = [source / one for one in dict.fromkeys(versions)] or artifact.versions_in(source)
    with Console(stderr=True).status("export") as status:
        result = export.export(
            folders,
            target,
            formats,
            activate,
            lambda version, step: status.update(f"{version}: {step}"),
            tuple(one for given in capabilities for one in given),
            flavour,
            precision,
            key=key,
        )
    if as_json:
        click.echo(json.dumps({"versions": result.versions, "active": result.active}))
    else:
        click.echo(f"{target}: wrote {', '.join(result.versions)}; active is {result.active}")
