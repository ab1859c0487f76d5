"""The published model in ONNX Runtime, in a process of its own, without PyTorch.

    python -m benchmarks.published.onnx_run JOB OUTPUT

`theirs` has written the ONNX file before.
"""

import pathlib
import sys
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.published import job as jobs
from benchmarks.published.job import Job, seen

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INPUT = "image"


def start(job: Job) -> onnxruntime.InferenceSession:
    """The session for a job, with all optimisations. Raises RuntimeError if ONNX Runtime cannot use the device."""
    provider = PROVIDERS[job.device]
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"this onnxruntime has no {provider}; install onnxruntime-gpu, or leave out --onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(job.exported, options, providers=[provider])


def main() -> None:
    """Does the job, writes seconds and peak memory."""
    job, output = Job.read(sys.argv[1]), pathlib.Path(sys.argv[2])
    session = start(job)

    def call(index: int) -> Any:
        image = np.ascontiguousarray(seen(job, index).transpose(2, 0, 1), np.float32)
        return session.run(None, {INPUT: image})

    call(0)
    call(1)
    record = jobs.timed(call, job.repetitions) | {"versions": {"onnxruntime": onnxruntime.__version__}}
    jobs.reply(job, output, record, lambda: jobs.probabilities_and_labels(*call(0)))


if __name__ == "__main__":
    main()
