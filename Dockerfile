# echod as an image. See docs/image.md for builds and their use.

# The base of both stages. It needs Python 3.11 or later as python3, with ensurepip, ssl and venv, which
# every user may run, and for the build a shell, such as busybox's. The base's own user does not matter.
ARG BASE=python:3.14-slim

FROM ${BASE} AS build
USER 0:0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_USER=0
WORKDIR /src
RUN python3 -c 'import sys, ensurepip, ssl, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
    { echo "BASE must have Python 3.11 or later as python3, with ensurepip, ssl and venv"; exit 1; }
COPY requirements/build.lock requirements/run.lock requirements/
# pip and setuptools stay behind in /tools.
RUN python3 -m venv /tools && \
    python3 -m venv --without-pip /opt/echod && \
    /tools/bin/pip install --require-hashes -r requirements/build.lock && \
    /tools/bin/pip --python /opt/echod/bin/python install --no-compile \
      --require-hashes -r requirements/run.lock
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY echod echod
COPY tools/self_test.py tools/
# Slim images ship their standard library uncompiled. On a read-only root, Python would compile it at
# each start and each health check. A first run leaves compiled files for later runs, and proves that
# echod works on this base. A second run proves it for echod's user.
RUN /tools/bin/pip wheel -q --no-deps --no-index --no-build-isolation -w /wheels . && \
    /tools/bin/pip --python /opt/echod/bin/python install --no-compile --no-deps /wheels/*.whl && \
    export PYTHONPYCACHEPREFIX=/opt/echod/pycache && \
    /opt/echod/bin/python -m compileall -q /opt/echod/lib && \
    /tools/bin/python -I tools/self_test.py /opt/echod/bin/echod
USER 65532:65532
RUN PYTHONPYCACHEPREFIX=/opt/echod/pycache \
    /tools/bin/python -I tools/self_test.py /opt/echod/bin/echod

FROM ${BASE}
ARG VERSION=0.2.0
ARG REVISION=unknown
# The repository's address, if it has one.
ARG SOURCE=
LABEL org.opencontainers.image.title="echod" \
      org.opencontainers.image.description="A drop-in for Istio's tcp-echo sample that can be observed, limited and drained" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/echod /opt/echod
ENV PATH=/opt/echod/bin:$PATH PYTHONPYCACHEPREFIX=/opt/echod/pycache
USER 65532:65532
WORKDIR /
EXPOSE 9000 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["echod", "health"]
ENTRYPOINT ["echod"]
CMD ["9000", "hello"]
