"""Memory: a drawing that no worker has room for is refused when it is asked for."""

from app.http.body import InvalidBody
from app.settings import ApiSettings
from jobs.queue import JobQueue
from models.catalog.memory import GIB, largest_size, predict
from models.requests.request import GenerationRequest


def check_memory(request: GenerationRequest, settings: ApiSettings, queue: JobQueue) -> None:
    """Refuse what does not fit even if it is drawn frugally: workers do so where the usual way does not fit.

    What fits is as the settings say; else what the largest worker says of itself; where none is there, all.

    Raises:
        InvalidBody: it does not fit; the detail names the largest size of this shape that does.
        redis.RedisError: it cannot be found out.
    """
    memory = settings.device_memory or max(
        (worker.detail.get("memory", 0) for worker in queue.workers()), default=0
    )
    names = settings.network_names
    need = predict(request, names, low_memory=True)
    if not memory or need <= memory:
        return
    size = largest_size(request, names, memory)
    advice = f"{size[0]}x{size[1]} would fit" if size else "no size would fit with these options"
    detail = (
        f"{request.width}x{request.height} needs about {need / GIB:.1f} GiB; "
        f"the largest worker has {memory / GIB:.1f} GiB; {advice}"
    )
    raise InvalidBody.at("#/width", "too_large_for_memory", detail)
