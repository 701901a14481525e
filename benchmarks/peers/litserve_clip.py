"""CLIP in LitServe, as its documentation would have it: batches of up to 32, or 8 pictures, within 5 ms.

Run by an interpreter that has litserve and open_clip: `python litserve_clip.py FOLDER PORT text|image`.
"""

import base64
import io
import sys

import litserve
import numpy as np
import open_clip
import torch
from PIL import Image


class ClipApi(litserve.LitAPI):
    """Texts or data URLs to embeddings in base64."""

    def __init__(self, folder: str, kind: str) -> None:
        super().__init__(max_batch_size=8 if kind == "image" else 32, batch_timeout=0.005)
        self.source, self.kind = f"local-dir:{folder}", kind

    def setup(self, device: str) -> None:
        self.model, _, self.transform = open_clip.create_model_and_transforms(self.source, device="cpu")
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(self.source)

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        if self.kind == "text":
            return self.tokenize([request["input"]])[0]
        file = base64.b64decode(request["input"].partition(",")[2])
        return self.transform(Image.open(io.BytesIO(file)).convert("RGB"))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, batch: torch.Tensor) -> np.ndarray:
        encode = self.model.encode_text if self.kind == "text" else self.model.encode_image
        with torch.inference_mode():
            return encode(batch, normalize=True).numpy()

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, str]:
        return {"embedding": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    folder, port, kind = sys.argv[1:4]
    server = litserve.LitServer(ClipApi(folder, kind), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
