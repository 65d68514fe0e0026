# CPU:   docker build -t scal3r .
# CUDA:  docker build -t scal3r --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#          --build-arg TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130" .
# Run:   docker run --rm --gpus all --shm-size 16g -v "$PWD:/work" scal3r train debug/cpu
#
# --shm-size: reading processes hand their batches over in shared memory, and NCCL uses it too; Docker's 64 MB are
# too little for either. Any base with apt and Python 3.10 to 3.13 will do. A devel image, since deepspeed looks for nvcc.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv python3-dev build-essential \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/scal3r
ENV PATH=/opt/scal3r/bin:$PATH

# Torch before the sources: a change of the code does not install it again.
ARG TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
RUN pip install --no-cache-dir ${TORCH}

WORKDIR /opt/source
COPY pyproject.toml README.md LICENSE ./
COPY scal3r_train scal3r_train
COPY eval eval
COPY data_tools data_tools
COPY recipes recipes
COPY assets assets
RUN pip install --no-cache-dir ".[all]"

WORKDIR /work
ENTRYPOINT ["scal3r"]
