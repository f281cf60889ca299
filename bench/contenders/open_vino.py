"""OpenVINO: the node of onnx_model.py, compiled before the timing, in float32 throughout. Forward only."""

import openvino

from ..cases import Case
from . import Calls, onnx_model, require

NAME = "OpenVINO"


def version() -> str:
    return openvino.__version__.split("-")[0]


def prepare(case: Case, threads: int) -> Calls:
    require(NAME, case, onnx_model.GATES, training=False, ragged=False, float64=False)
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(onnx_model.model(case)), "CPU", settings)
    request, feeds = compiled.create_infer_request(), onnx_model.feeds(case)
    return Calls(
        lambda: request.infer(feeds, share_inputs=True, share_outputs=True),
        lambda outputs: onnx_model.results(case, [outputs[port] for port in compiled.outputs]),
    )
