"""CLIP in two steps: what does a picture show, and which pictures of a folder show what you say?

Start the service with `make serve`, then

    .venv/bin/python examples/search.py FOLDER "a cup of coffee" "something that flies"
"""

import sys
from pathlib import Path

from clipcanvas import Client
from clipcanvas.client.batches import find_images, index_folder

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})


def main(folder: Path, texts: list[str], url: str = "http://127.0.0.1:8000") -> None:
    """Classify the cat that lies beside this file, then search the folder."""
    with Client(url) as client:
        # Zero-shot: the labels are made up here; the model was never trained on them.
        cat = Path(__file__).with_name("cat.jpg")
        for score in client.classify(cat, ["a cat", "a dog", "a rocket"]).data[0].labels:
            print(f"{score.probability:6.1%}  {score.label}")

        # Each picture becomes a vector once. A text becomes a vector of the same space, and the nearest
        # pictures are what it describes.
        collection = client.collection("examples")
        collection.create()
        outcome = index_folder(collection, folder, find_images(folder, SUFFIXES))
        print(f"\n{outcome.added} pictures added, {outcome.known} known, {len(outcome.failed)} unreadable")
        for text in texts:
            print(f"\n{text}")
            for hit in collection.search(text, top_k=3).data:
                print(f"{hit.similarity:6.3f}  {hit.id}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
