# Two images from one file: `api` answers, `worker` draws (with `indexer` it indexes, with `janitor` it sweeps, with `webhooks` it tells).
#   docker build --target api -t clipcanvas-api .
#   docker build --target worker -t clipcanvas-worker .
# For GPUs, take the usual torch, which brings CUDA with it: --build-arg TORCH_INDEX=

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/clipcanvas
ENV PATH=/opt/clipcanvas/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
# torch first and by itself: it is most of the image, and changes seldom
RUN pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -c constraints.txt torch torchvision
COPY clipcanvas clipcanvas
COPY app app
COPY jobs jobs
COPY models models
COPY storage storage
COPY workers workers
# the demo weights are part of the package; WEIGHTS=volume leaves them out: then mount a folder of weights on
# /weights and set CLIPCANVAS_WEIGHTS=/weights
ARG WEIGHTS=baked
RUN if [ "${WEIGHTS}" = volume ]; then rm -r models/weights && mkdir models/weights; fi \
    && pip install -c constraints.txt ".[s3]"

FROM python:${PYTHON_VERSION}-slim AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 clipcanvas \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data clipcanvas \
    && install --directory --owner=10001 --group=10001 /data /weights
COPY --from=build /opt/clipcanvas /opt/clipcanvas
ENV PATH=/opt/clipcanvas/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    HF_HOME=/weights/hf \
    XDG_CACHE_HOME=/tmp \
    CLIPCANVAS_STORE=file:///data/store
LABEL org.opencontainers.image.title="clipcanvas" \
      org.opencontainers.image.description="CLIP looks at pictures, VQGAN+CLIP draws them" \
      org.opencontainers.image.licenses="MIT AND GPL-3.0-or-later"
WORKDIR /data
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]

FROM runtime AS api
ENV CLIPCANVAS_HOST=0.0.0.0 CLIPCANVAS_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['CLIPCANVAS_PORT'] + '/livez', timeout=4)"]
CMD ["python", "-P", "-m", "app"]

FROM runtime AS worker
# a worker shows in Redis that it lives, and the API's /readyz tells; here only that its process turns
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, redis; redis.Redis.from_url(os.environ['CLIPCANVAS_REDIS_URL'], socket_timeout=5).ping()"]
ENTRYPOINT ["tini", "--", "python", "-P", "-m", "workers"]
