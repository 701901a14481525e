"""Commands about collections: search, list, create, show, classify, find duplicates, delete."""

import json
from typing import Annotated, Any

import typer

from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Model, Url

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]

collections = typer.Typer(
    help="List, create, show, classify, compare, move and delete collections.", no_args_is_help=True
)


def search(
    collection: Name,
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT|IMAGE",
            help="The path of an image file is an image, everything else a text; several are summed.",
        ),
    ],
    without: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="TEXT|IMAGE", help="What to avoid, with half the weight; repeatable."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many of the best to print.")] = 10,
    filter: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help='Over the metadata, such as ".year > 1980".')
    ] = None,
    min_similarity: Annotated[float | None, typer.Option(min=-1, max=1, help="Least cosine.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Look at every image.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Find images of a collection.

    \b
    Examples:
      clipcanvas search holidays "a dog on a beach" --not people
      clipcanvas search holidays cat.jpg --top-k 3 --filter ".year > 1980"
    """
    from clipcanvas.client.collections.results import QueryPart

    parts = [_part(item, 1.0) for item in query] + [_part(item, -0.5) for item in without or []]
    with console.connect(url, api_key) as client:
        found = client.collection(collection).search(
            [QueryPart(**part) for part in parts],
            top_k=top_k,
            filter=filter,
            min_similarity=min_similarity,
            exact=exact,
        )
    if as_json:
        console.print_json(found.model_dump(mode="json"))
        return
    rows = [(place, hit.id, hit.similarity, _short(hit.metadata)) for place, hit in enumerate(found.data, 1)]
    console.print_table(["rank", "image", "similarity", "metadata"], rows)


@collections.command("list")
def list_collections(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List collections by name.

    \b
    Examples:
      clipcanvas collections list
    """
    with console.connect(url, api_key) as client:
        found = client.collections()
    if as_json:
        console.print_json(found.model_dump(mode="json"))
        return
    console.print_table(
        ["collection", "images", "model", "quantization"],
        [(card.name, card.count, card.model, card.quantization) for card in found.data],
    )


@collections.command()
def create(
    collection: Name,
    quantization: Annotated[str | None, typer.Option(help="q8, none or binary.")] = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Keep a thumbnail of each image.")] = False,
    model: Model = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a collection, unless it is there already.

    \b
    Examples:
      clipcanvas collections create holidays --quantization none --thumbnails
    """
    with console.connect(url, api_key) as client:
        card = client.collection(collection).create(
            model=model, quantization=quantization, thumbnails=thumbnails or None
        )
    _tell(card.model_dump(mode="json"), as_json)


@collections.command()
def show(collection: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show what a collection is, and how many images it holds.

    \b
    Examples:
      clipcanvas collections show holidays
    """
    with console.connect(url, api_key) as client:
        card = client.collection(collection).info()
    _tell(card.model_dump(mode="json"), as_json)


@collections.command()
def delete(
    collection: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Forget a collection and all of its images.

    \b
    Examples:
      clipcanvas collections delete holidays --yes
    """
    with console.connect(url, api_key) as client:
        card = client.collection(collection).info()
        if not yes:
            typer.confirm(f"Forget {card.name} and its {card.count} images?", abort=True)
        client.collection(collection).delete()
    console.print_json({"deleted": collection}) if as_json else print(f"{collection} is deleted")


@collections.command()
def classify(
    collection: Name,
    labels: Annotated[list[str], typer.Argument(metavar="LABEL", help="What the images may show.")],
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Examples of each label.")] = 3,
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Images whose best label is less likely get none.")
    ] = 0.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say which label fits each image best: counts, and examples of each label.

    \b
    Examples:
      clipcanvas collections classify holidays beach city mountains --min-probability 0.5
    """
    with console.connect(url, api_key) as client:
        answer = client.collection(collection).classify(labels, top_k=top_k, min_probability=min_probability)
    if as_json:
        console.print_json(answer.model_dump(mode="json"))
        return
    rows = [
        (entry.label, entry.count, ", ".join(item.id for item in entry.examples)) for entry in answer.data
    ]
    console.print_table(["label", "images", "such as"], rows)
    if answer.unlabeled:
        console.note(f"{answer.unlabeled} of {answer.images} images have no label")


@collections.command()
def duplicates(
    collection: Name,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least similarity.")] = 0.95,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List pairs of images that are nearly the same.

    \b
    Examples:
      clipcanvas collections duplicates holidays --threshold 0.98
    """
    with console.connect(url, api_key) as client:
        found = list(client.collection(collection).every_duplicate(threshold=threshold))
    if as_json:
        console.print_json([entry.model_dump(mode="json") for entry in found])
        return
    rows = [(entry.id, other.id, other.similarity) for entry in found for other in entry.duplicates]
    console.print_table(["image", "is like", "similarity"], rows)


def _part(argument: str, weight: float) -> dict[str, Any]:
    item = console.text_or_image(argument)
    return {"text" if isinstance(item, str) else "image": item, "weight": weight}


def _short(metadata: dict[str, Any]) -> str | None:
    text = json.dumps(metadata, ensure_ascii=False)
    return None if not metadata else text if len(text) <= 60 else text[:57] + "..."


def _tell(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print_json(fields)
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        if name != "object":
            print(f"{name:<{width}}  {value}")
