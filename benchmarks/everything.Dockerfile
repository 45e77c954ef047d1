# One image with everything, built in one stage as in this template's predecessor;
# `make bench-image` compares it with the project's images. Its context is a rendered project.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}
ARG GROUPS=""
ENV PIP_NO_CACHE_DIR=1 \
    HOST=0.0.0.0
WORKDIR /app
COPY . .
# --group needs pip 25.1.
RUN pip install --upgrade "pip>=25.1" \
    && pip install . $(printf -- "--group %s " ${GROUPS})
EXPOSE 8000
CMD ["mmp", "serve-api"]
