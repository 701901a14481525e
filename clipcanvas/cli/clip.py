"""Commands that CLIP answers at once: classify, embed, rank."""

from typing import Annotated

import typer

from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Model, TopK, Url

TEXT_OR_IMAGE = "The path of an image file is an image, everything else a text."


def classify(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Path of an image file.")],
    labels: Annotated[list[str], typer.Argument(metavar="LABEL", help="What it may show.")],
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Sentence with {label} in it; repeatable; without, the model's own."
        ),
    ] = None,
    top_k: TopK = None,
    model: Model = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say which label fits an image.

    \b
    Examples:
      clipcanvas classify cat.jpg cat dog car
      clipcanvas classify cat.jpg cat dog --template "a drawing of a {label}." --json
    """
    path = console.image_path(image)
    with console.connect(url, api_key) as client:
        answer = client.classify(path, labels, templates=template or None, top_k=top_k, model=model)
    if as_json:
        console.print_json(answer.model_dump(mode="json"))
        return
    console.print_table(
        ["label", "probability", "similarity"],
        [(score.label, score.probability, score.similarity) for score in answer.data[0].labels],
    )


def embed(
    inputs: Annotated[list[str], typer.Argument(metavar="TEXT|IMAGE", help=TEXT_OR_IMAGE)],
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Keep this many numbers of each vector.")
    ] = None,
    model: Model = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Turn texts and images into vectors.

    --json prints them whole.

    \b
    Examples:
      clipcanvas embed "a cat" cat.jpg
      clipcanvas embed "a cat" --dimensions 64 --json
    """
    items = [console.text_or_image(item) for item in inputs]
    with console.connect(url, api_key) as client:
        answer = client.embed(items, model=model, dimensions=dimensions)
    if as_json:
        console.print_json(answer.model_dump(mode="json"))
        return
    rows = [
        (item, len(vector), " ".join(f"{number:+.4f}" for number in vector[:6]) + " ...")
        for item, vector in zip(inputs, answer.vectors, strict=True)
    ]
    console.print_table(["input", "dimensions", "vector"], rows)


def rank(
    query: Annotated[str, typer.Argument(metavar="TEXT|IMAGE", help=TEXT_OR_IMAGE)],
    candidates: Annotated[list[str], typer.Argument(metavar="TEXT|IMAGE", help="Texts and images to order.")],
    top_k: TopK = None,
    model: Model = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Order images or texts by how well they fit.

    \b
    Examples:
      clipcanvas rank "a cup of coffee" *.jpg --top-k 3
      clipcanvas rank cat.jpg "a cat" "a dog"
    """
    items = [console.text_or_image(item) for item in candidates]
    with console.connect(url, api_key) as client:
        answer = client.rank(console.text_or_image(query), items, top_k=top_k, model=model)
    if as_json:
        console.print_json(answer.model_dump(mode="json"))
        return
    rows = [(place, candidates[row.index], row.similarity) for place, row in enumerate(answer.data, start=1)]
    console.print_table(["rank", "candidate", "similarity"], rows)
