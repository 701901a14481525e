"""Commands about models: those of the service, the catalog, and weights files of this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Url

models = typer.Typer(
    help="What the service serves; the catalog of models, and their weights on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        envvar="CLIPCANVAS_WEIGHTS",
        metavar="FOLDER",
        help="Folder of the weights; without, models/weights.",
    ),
]
Names = Annotated[list[str], typer.Argument(metavar="NAME", help="A model of `clipcanvas models list`.")]
MemoryGib = Annotated[
    float | None,
    typer.Option(
        "--memory-gib",
        min=0.1,
        metavar="GIB",
        help="Memory that a conversion may use; default: by the size of the file.",
    ),
]
Seconds = Annotated[int, typer.Option(min=1, metavar="SECONDS", help="CPU time that a conversion may use.")]
GIB = 2**30


@models.command()
def served(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the CLIP models and the generators of the service that runs.

    \b
    Examples:
      clipcanvas models served
      clipcanvas models served --json
    """
    with console.connect(url, api_key) as client:
        cards, generators = client.models(), client.generators()
    if as_json:
        console.print_json(
            {
                "models": [card.model_dump(mode="json") for card in cards],
                "generators": [card.model_dump(mode="json") for card in generators],
            }
        )
        return
    console.print_table(
        ["model", "embedding", "image", "context", "license", "loaded"],
        [
            (card.id, card.embedding_dim, card.image_size, card.context_length, card.license, card.loaded)
            for card in cards
        ],
        title="CLIP models (--model)",
    )
    print()
    console.print_table(
        ["generator", "description"],
        [(card.name, card.description) for card in generators],
        title="Generators (--generator)",
    )


@models.command("list")
def list_(weights: Weights = None, as_json: AsJson = False) -> None:
    """List the catalog: every model that has a card, and whether its weights are here.

    `memory` is what a CLIP takes to serve in fp32, and the others to draw with their defaults.

    \b
    Examples:
      clipcanvas models list
      clipcanvas models list --json
    """
    catalog = _run_catalog("list", weights)
    if as_json:
        console.print_json(catalog)
        return
    kinds = {"clip": "CLIPs", "vqgan": "VQGANs", "min-dalle": "DALL-E mini and mega", "unclip": "unCLIPs"}
    for kind, title in kinds.items():
        console.print_table(
            ["name", "here", "download", "memory", "license"],
            [
                (
                    item["name"],
                    "yes" if item["here"] else "no",
                    _download_size(item),
                    console.bytes_text(item["memory"]),
                    item["license"],
                )
                for item in catalog
                if item["kind"] == kind
            ],
            title=title,
        )
        print()


@models.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model of `clipcanvas models list`.")],
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's card: what it is, where it comes from, how much memory it needs.

    \b
    Examples:
      clipcanvas models show ViT-L-14
      clipcanvas models show imagenet-f16-16384 --json
    """
    item = _run_catalog("show", weights, name)
    if as_json:
        console.print_json(item)
        return
    sizes = ("embedding_dim", "image_size", "context_length", "codes", "pixels_per_code", "quantizer")
    rows: list[tuple[str, object]] = [("description", item["description"]), ("kind", item["kind"])]
    rows += [(key.replace("_", " "), item[key]) for key in sizes if item.get(key) is not None]
    rows += [
        ("weights, in fp32", console.bytes_text(item["weight_bytes"])),
        ("memory", console.bytes_text(item["memory"])),
        ("license", item["license"]),
        *(("attribution", line) for line in item["attributions"]),
        ("source", item["source"]),
        ("here", "yes" if item["here"] else f"no; clipcanvas models pull {name}"),
        ("folder", item["folder"]),
    ]
    for place in item["downloads"]:
        rows += [("download", place["place"]), ("  its SHA-256", place["sha256"] or "not published")]
    for file in item["files"]:
        rows += [("file", file["path"]), ("  its SHA-256", file["sha256"] or "any is taken")]
    console.print_table(["", ""], rows)


@models.command()
def pull(
    names: Names,
    address: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="Fetch from there instead: https, a checkpoint or safetensors."
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="What the file of --url must have.")
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", envvar="CLIPCANVAS_OFFLINE", help="Fetch nothing: fail if it is not here."),
    ] = False,
    memory_gib: MemoryGib = None,
    seconds: Seconds = 1800,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Fetch weights, check their SHA-256, and convert them to safetensors where they are pickles.

    Run the command again to continue an interrupted download. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE apply.

    \b
    Examples:
      clipcanvas models pull ViT-B-32
      clipcanvas models pull imagenet-f16-16384 --weights /srv/weights
      clipcanvas models pull faceshq --url https://example.com/last.ckpt --sha256 9f86d0…
    """
    if address is not None and len(names) != 1:
        raise typer.BadParameter("--url is of one model", param_hint="NAME")
    if sha256 is not None and address is None:
        raise typer.BadParameter("is of the file of --url, which is not given", param_hint="--sha256")
    options = [f"--url={address}"] if address else []
    options += [f"--sha256={sha256.lower()}"] if sha256 else []
    options += ["--offline"] if offline else []
    options += _limits(memory_gib, seconds)
    reports = []
    for name in names:
        try:
            report = _run_catalog("pull", weights, name, *options, progress=f"{name}:")
        except KeyboardInterrupt:
            console.note("run the command again to continue")
            raise typer.Exit(console.INTERRUPTED) from None
        reports.append(report)
        if not as_json:
            print(_pulled(report))
    if as_json:
        console.print_json(reports)


@models.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Of models; without, all that are here.")
    ] = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Compare the weights on this machine with their SHA-256: of the card, or as they were when they came.

    \b
    Examples:
      clipcanvas models verify
      clipcanvas models verify demo-photo demo --json
    """
    found = _run_catalog("verify", weights, *(names or []))
    if as_json:
        console.print_json(found)
    else:
        rows = [(name, file["path"], file["state"]) for name, files in found.items() for file in files]
        console.print_table(["model", "file", ""], rows)
    if any(file["state"] in ("missing", "corrupt") for files in found.values() for file in files):
        raise typer.Exit(console.UNSUCCESSFUL)


@models.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .ckpt, .pt, .bin or .safetensors; of a min-dalle or an unCLIP, the folder.",
            exists=True,
        ),
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the catalog, whose weights it becomes; or a new one.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="For a new one: taming's YAML of a VQGAN, or open_clip_config.json of a CLIP.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|fp16|bf16", help="Of the numbers; without, as they are.")
    ] = None,
    decoder_only: Annotated[
        bool,
        typer.Option("--decoder-only", help="Leave a VQGAN's encoder behind: it cannot start from an image."),
    ] = False,
    memory_gib: MemoryGib = None,
    seconds: Seconds = 1800,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Convert your weights file to a model: safetensors and a card. Runs no code of a pickle.

    A VQGAN is taken out of Lightning's checkpoints, and out of a transformer's; a CLIP out of open_clip's and
    OpenAI's; a min-dalle out of a copy of its repository, or of the folder that min-dalle keeps; an
    unCLIP is copied out of a folder in diffusers' layout.

    \b
    Examples:
      clipcanvas models convert last.ckpt imagenet-f16-16384
      clipcanvas models convert last.ckpt my-vqgan --config model.yaml --dtype fp16
      clipcanvas models convert epoch_32.pt my-clip --config open_clip_config.json
      clipcanvas models convert pretrained/dalle_bart_mini min-dalle-mini
    """
    if dtype not in (None, "fp32", "fp16", "bf16"):
        raise typer.BadParameter(f"{dtype} is not fp32, fp16 or bf16", param_hint="--dtype")
    options = [str(source.absolute()), name, *_limits(memory_gib, seconds)]
    options += [f"--config={config.absolute()}"] if config else []
    options += [f"--dtype={dtype}"] if dtype else []
    options += ["--decoder-only"] if decoder_only else []
    report = _run_catalog("convert", weights, *options, progress=f"{name}:")
    if as_json:
        console.print_json(report)
    else:
        sha256 = f", SHA-256 {report['sha256']}" if "sha256" in report else ""
        print(f"{name} is here: a {report['kind']}{sha256}")


def _run_catalog(command: str, weights: Path | None, *arguments: str, progress: str = "") -> Any:
    from clipcanvas.cli.catalog import run

    options = [] if weights is None else [f"--weights={weights.absolute()}"]
    if not progress:
        return run([*options, command, *arguments])
    with console.bytes_bar(progress) as report:
        return run([*options, command, *arguments], report)


def _limits(memory_gib: float | None, seconds: int) -> list[str]:
    memory = [] if memory_gib is None else [f"--memory={round(memory_gib * GIB)}"]
    return [*memory, f"--seconds={seconds}"]


def _pulled(report: dict[str, Any]) -> str:
    if not report["fetched"]:
        return f"{report['name']} is here: {report['folder']}"
    if report["sha256"] is None:
        return f"{report['name']} is here: {report['folder']}\n  from {report['from']}"
    known = "as expected" if report["sha256_was_known"] else "which nobody had published: it is noted now"
    return (
        f"{report['name']} is here: {report['folder']}\n  from {report['from']}\n"
        f"  SHA-256 {report['sha256']}, {known}"
    )


def _download_size(item: dict[str, Any]) -> str:
    if not item["downloads"]:
        return "-"
    mib = item["downloads"][0]["mib"]
    return console.bytes_text(mib * 2**20 if mib else item["weight_bytes"])
