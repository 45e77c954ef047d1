# What `make bench-image` compares with: one image with everything, in one stage, as the
# predecessor of this template had it. Its context is a rendered project.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}
ARG GROUPS=""
ENV PIP_NO_CACHE_DIR=1 \
    HOST=0.0.0.0
WORKDIR /app
COPY . .
# --group takes pip 25.1.
RUN pip install --upgrade "pip>=25.1" \
    && pip install . $(printf -- "--group %s " ${GROUPS})
EXPOSE 8000
CMD ["mmp", "serve-api"]
