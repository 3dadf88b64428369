# The server with its networks inside. CPU by default; for CUDA:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t hrpose:cuda .
# A read-only root works:  docker run --read-only --tmpfs /tmp -p 8000:8000 hrpose

# Debian's own Python, without what was compiled of its library and its pages of help.
FROM debian:bookworm-slim AS python
RUN apt-get update && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /usr/lib/python3.11/pydoc_data \
    && find /usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} +

FROM python AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv binutils
WORKDIR /src

FROM tools AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv /opt/hrpose

# What changes least comes first: torch, the other dependencies, then the code.
COPY pyproject.toml ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; e = p['optional-dependencies']; print(*p['dependencies'], *e['serve'], *e['torch'], *e['train'], sep='\n')" | grep -v '^hrpose' > requirements.txt
RUN /opt/hrpose/bin/pip install --index-url "$TORCH_INDEX" $(grep '^torch' requirements.txt)
RUN /opt/hrpose/bin/pip install -r requirements.txt
COPY README.md LICENSE NOTICE hrpose.py ./
COPY models models/
COPY heads heads/
COPY service service/
COPY commands commands/
COPY training training/
RUN /opt/hrpose/bin/pip install --no-deps .

# The server alone, without torch:  docker build --target slim -t hrpose:slim .
FROM tools AS slim-build
RUN python3 -m venv /opt/hrpose
COPY pyproject.toml README.md LICENSE NOTICE hrpose.py ./
COPY models models/
COPY heads heads/
COPY service service/
COPY commands commands/
COPY training training/
RUN /opt/hrpose/bin/pip install --no-compile '.[serve]'
# What no server on a CPU reads: plugins for other devices, readers of other formats, tests, pip.
RUN cd /opt/hrpose/lib/python*/site-packages \
    && rm -rf openvino/libs/libopenvino_intel_[gn]pu_plugin.so openvino/libs/cache.json \
        openvino/libs/libopenvino_tensorflow*_frontend.so* openvino/libs/libopenvino_pytorch_frontend.so* \
        openvino/libs/libopenvino_paddle_frontend.so* openvino/libs/libopenvino_gguf_frontend.so* \
        openvino/libs/libopenvino_jax_frontend.so* openvino/include numpy/*/tests numpy/tests \
        pip pip-* setuptools setuptools-* pkg_resources \
    # Not what lies in *.libs: stripped after it was patched, it cannot be loaded.
    && find . -name '*.so' \( -path './uvloop/*' -o -path './httptools/*' -o -path './wrapt/*' \) \
        -exec strip --strip-unneeded {} +

FROM python AS server
# Downloaded weights are all that is ever written, besides /tmp.
RUN useradd --system --uid 10001 --user-group --home-dir /var/cache/hrpose hrpose \
    && install -d -o hrpose -g hrpose /var/cache/hrpose
# Threads of OpenMP that wait must sleep: spinning takes the cores from decoding and HTTP.
ENV PATH=/opt/hrpose/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=passive \
    GOMP_SPINCOUNT=0 \
    HRPOSE_CACHE=/var/cache/hrpose \
    HRPOSE_HOST=0.0.0.0
VOLUME ["/var/cache/hrpose"]
WORKDIR /var/cache/hrpose
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('HRPOSE_PORT', '8000')), timeout=2); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["hrpose", "serve"]

FROM server AS slim
COPY --from=slim-build /opt/hrpose /opt/hrpose

# The last stage is what a plain build makes.
FROM server
COPY --from=build /opt/hrpose /opt/hrpose
