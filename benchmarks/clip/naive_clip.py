"""CLIP behind FastAPI as it is often written: open_clip called once per request. `clip_serving` measures it.

`python -m benchmarks.clip.naive_clip FOLDER PORT`; FOLDER is one that open_clip loads.
"""

import io
import sys

import open_clip
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image


def create_app(folder: str) -> FastAPI:
    """The model is loaded once, and nothing else is thought of."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    app = FastAPI()

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/image")
    async def image(request: Request) -> list[float]:
        picture = Image.open(io.BytesIO(await request.body()))
        with torch.no_grad():
            return model.encode_image(preprocess(picture)[None], normalize=True)[0].tolist()

    @app.post("/text")
    async def text(request: Request) -> list[float]:
        with torch.no_grad():
            return model.encode_text(tokenizer([(await request.body()).decode()]), normalize=True)[0].tolist()

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
