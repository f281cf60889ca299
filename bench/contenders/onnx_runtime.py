"""ONNX Runtime: the node of onnx_model.py, its session built before the timing. Forward only."""

import onnxruntime

from ..cases import Case
from . import Calls, onnx_model, require

NAME = "ONNX Runtime"


def version() -> str:
    return onnxruntime.__version__


def prepare(case: Case, threads: int) -> Calls:
    require(NAME, case, onnx_model.GATES, training=False, float64=False)
    options = session_options(threads)
    session = onnxruntime.InferenceSession(onnx_model.model(case), options, providers=["CPUExecutionProvider"])
    feeds = onnx_model.feeds(case)
    return Calls(lambda: session.run(None, feeds), lambda outputs: onnx_model.results(case, outputs))


def session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options
