"""certify passes what is right and names what is wrong, as a function and on the command line."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import handwritten
import numpy as np
import pytest
from handwritten import RIGHT, WRONG

import fastgate
from fastgate.__main__ import main
from fastgate.check import certify

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(fastgate.__file__).parents[1]), str(Path(__file__).parent)])
}


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case[0] for case in cases])


# --- certify ----------------------------------------------------------------------------------------------------------


@named(RIGHT)
@pytest.mark.parametrize("seed", [0, 1])
def test_right_pairs_pass(case, seed):
    _, forward, backward, keywords = case
    certificate = certify(forward, backward, **keywords, seed=seed)
    assert certificate.ok, str(certificate)
    assert not certificate.wrong
    assert {"gradients", "repeated calls"} <= {check.name for check in certificate.checks if check.passed}
    assert max(check.error for check in certificate.checks if check.error is not None) < 1e-7


CAUSES = {
    "lstm: dWh transposed": ("dWh", "transposed"),
    "lstm: sign of dWx": ("dWx", "sign"),
    "lstm: mean over the batch": ("dWx", "at T = 1 divided by N"),
    "lstm: weights added to the weight gradient": ("dWx", "Wx itself is added"),
    "lstm: dh_T ignored": ("dWx", "dh_T is ignored"),
    "lstm: dc_T ignored": ("dc0", "dc_T is ignored"),
    "lstm: dc_T counted twice": ("dWh", "dc_T is counted twice"),
    "lstm: dh only added at the last step": ("db", "only the last step's dh arrives"),
    "lstm: db overwritten at every step": ("db", "overwritten at every step"),
    "lstm: db summed over the wrong axis": ("db", "summed over the wrong axis"),
    "lstm: peephole term missing at t = 0": ("dpeephole", "first step's contribution is missing"),
    "lstm: first step left out": ("dWx", "first step's contribution is missing"),
    "lstm: gates swapped": ("db", "gates swapped: block 3 (g) holds 4 (o), block 4 (o) holds 3 (g)"),
    "lstm: tanh' from the pre-activation": ("dWx", "block 3 (g) is wrong; the other gates of 4 are right"),
    "lstm: dx left out": ("dx", "all zero"),
    "lstm: float32 inside": ("h", "rounded to float32"),
    "lstm: rounded to float32 on the way back": ("dWh", "rounded to float32"),
    "gru: sign of dz": ("db", "block 2 (z) is -1 times the right one"),
    "gru: no gradient through r": ("dWx", "block 1 (r) is zero"),
    "gru: direct path of h_prev missing": ("dWx", "right at T = 1"),
}


@named(WRONG)
def test_mistakes_are_caught(case):
    """The wrong gradient is named, and its cause where it is one of CAUSES."""
    name, forward, backward, keywords, what = case
    gates = {"lstm": "ifgo", "gru": "rzn"}.get(name.split(":")[0])
    certificate = certify(forward, backward, **keywords, gates=gates, sizes={"N": 3, "T": 4, "D": 2, "H": 5})
    assert not certificate.ok
    assert what in {finding.what for finding in certificate.findings}, str(certificate)
    assert what in certificate.summary()
    if name in CAUSES:
        what, words = CAUSES[name]
        causes = [finding.cause for finding in certificate.findings if finding.what == what]
        assert any(words in cause for cause in causes), str(certificate)


def test_there_are_enough_of_both():
    assert len(RIGHT) >= 10
    assert len(WRONG) >= 20


@pytest.mark.parametrize("function", [f"{cell}_{step}" for cell in ("rnn", "lstm", "gru") for step in ("", "step_")])
def test_the_functions_of_fastgate_pass(function):
    certificate = certify(getattr(fastgate, f"{function}forward"), getattr(fastgate, f"{function}backward"))
    assert certificate.ok, str(certificate)
    assert not certificate.notes
    does_not_apply = {check.name for check in certificate.checks if check.passed is None}
    if "step" in function:
        assert does_not_apply <= {"T = 1", "first step", "last step", "ragged lengths", "each upstream gradient alone"}
    else:
        assert not does_not_apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g._replace(dWx=2 * g.dWx), "twice too large"),
        (lambda g: g._replace(dWx=g.dWx / 5), "divided by T"),
        (lambda g: g._replace(dWx=1.25 * g.dWx), "1.25 times"),
        (lambda g: g._replace(dWx=0 * g.dWx), "all zero"),
        (lambda g: g._replace(dWx=np.roll(g.dWx, 6, axis=1)), "gates swapped"),
        (lambda g: g._replace(dWx=g.dWx[:, ::-1]), ""),
        (lambda g: g._replace(dWx=g.dWx * np.nan), "not finite"),
    ],
)
def test_one_gradient_is_named_and_no_other(change, words):
    certificate = certify(fastgate.lstm_forward, lambda dh, cache, dh_T=None, dc_T=None: change(
        fastgate.lstm_backward(dh, cache, dh_T, dc_T)))  # fmt: skip
    assert set(certificate.wrong) == {"dWx"}
    assert any(words in finding.cause for finding in certificate.findings)


def test_the_right_gradient_by_a_wrong_forward_cache_is_seen_in_chains_only():
    forward, backward = next(case[1:3] for case in WRONG if case[0].startswith("cache that"))
    certificate = certify(forward, backward)
    failed = {check.name for check in certificate.checks if check.passed is False}
    assert failed == {"chained calls", "repeated calls"}


def test_the_default_of_an_upstream_gradient_must_work():
    def backward(dh, cache, dh_T=None):
        return fastgate.gru_backward(dh, cache, dh_T + 0)

    certificate = certify(fastgate.gru_forward, backward)
    assert {finding.what for finding in certificate.findings} == {"dh_T"}


def test_results_in_the_wrong_memory_are_seen():
    held = {}

    def backward(dh, cache):
        result = handwritten.rnn_backward(dh, cache)
        buffer = held.setdefault("dWx", np.zeros_like(result[2]))
        buffer[:] = result[2]
        return *result[:2], buffer, *result[3:]

    certificate = certify(handwritten.rnn_forward, backward)
    assert {finding.words for finding in certificate.findings} == {"is overwritten by the next call of backward"}


def test_a_relu_whose_kink_is_near_passes():
    def forward(x, h0, Wx, Wh, b):
        return fastgate.rnn_forward(x, h0, Wx, Wh, b, activation="relu")

    for seed in range(5):
        assert certify(forward, fastgate.rnn_backward, seed=seed).ok


def test_other_sizes_and_reports():
    options = {"sizes": {"N": 2, "T": 3, "D": 7, "H": 5}, "directions": 2, "tolerance": 1e-7}
    certificate = certify(*handwritten.gru_pair("sign of dz"), **options)
    report = json.loads(json.dumps(certificate.to_dict()))
    assert report["ok"] is False
    assert set(report["wrong"]) == {"dx", "dh0", "dWx", "dWh", "db", "dbh"}
    assert str(certificate) == str(certify(*handwritten.gru_pair("sign of dz"), **options))


def test_functions_that_raise_are_findings():
    def backward(dh, cache):
        if dh.shape[1] == 1:
            raise IndexError("no steps")
        return handwritten.rnn_backward(dh, cache)

    certificate = certify(handwritten.rnn_forward, backward)
    assert [(finding.check, finding.what) for finding in certificate.findings] == [("T = 1", "backward")]
    assert "IndexError: no steps" in str(certificate)


def test_functions_that_exit_are_findings():
    def forward(x, h0, Wx, Wh, b):
        return handwritten.rnn_forward(x, h0, Wx, Wh, b) if x.shape[1] > 1 else sys.exit(0)

    certificate = certify(forward, lambda dh, cache: sys.exit(0))
    assert {finding.what for finding in certificate.findings} == {"forward", "backward"}
    assert "backward: raised SystemExit: 0" in str(certificate)
    with pytest.raises(ValueError, match=r"worked with none .* SystemExit: 0"):
        certify(lambda x, h0, Wx, Wh, b: sys.exit(0), handwritten.rnn_backward)


def test_gradients_that_are_not_returned_are_noted():
    def backward(dh, cache):
        return handwritten.rnn_backward(dh, cache)[2:]

    certificate = certify(handwritten.rnn_forward, backward)
    assert certificate.ok
    assert certificate.gradients == ["dWx", "dWh", "db"]
    assert len(certificate.notes) == 2
    assert certificate.uncertified == ["dx", "dh0"]
    assert str(certificate).split("\n")[0].endswith(": right; not certified: dx, dh0")


@pytest.mark.parametrize("result", [None, (), {}, (None,) * 5])
def test_a_backward_without_any_gradient_is_wrong(result):
    certificate = certify(handwritten.rnn_forward, lambda dh, cache: result)
    assert not certificate.ok
    assert "backward: returns no gradient of any argument" in str(certificate)


@pytest.mark.parametrize(
    ("error", "start", "arguments", "keywords"),
    [
        (TypeError, "forward: expected a function", (1, handwritten.rnn_backward), {}),
        (TypeError, "backward: expected a function", (handwritten.rnn_forward, None), {}),
        (ValueError, "forward: no shape is known for its parameter 'q'", (lambda x, q: x, handwritten.rnn_backward), {}),
        (ValueError, "forward: .* worked with none", (lambda x, h0, Wx: x @ h0 @ Wx, handwritten.rnn_backward), {}),
        (ValueError, "sizes: expected any of N, T, D, H, got 'K'", None, {"sizes": {"K": 3}}),
        (ValueError, "sizes: expected N, T, D, H that all differ", None, {"sizes": {"N": 4}}),
        (ValueError, "sizes: expected integers above 1", None, {"sizes": {"N": 1}}),
        (TypeError, "sizes: expected a dict", None, {"sizes": 3}),
        (ValueError, "directions: ", None, {"directions": 0}),
        (ValueError, "tolerance: ", None, {"tolerance": 0}),
        (TypeError, "directions: expected an integer >= 1, got float", None, {"directions": 1.5}),
        (TypeError, "directions: expected an integer >= 1, got str", None, {"directions": "4"}),
        (TypeError, "tolerance: expected a number > 0, got str", None, {"tolerance": "1"}),
        (ValueError, "tolerance: expected a number > 0, got nan", None, {"tolerance": float("nan")}),
        (TypeError, "seed: expected an integer >= 0, got str", None, {"seed": "a"}),
        (ValueError, "seed: expected an integer >= 0, got -1", None, {"seed": -1}),
        (TypeError, "outputs: expected names", None, {"outputs": 3}),
        (TypeError, "gradients: expected names", None, {"gradients": 3}),
        (TypeError, "upstream: expected a dict", None, {"upstream": "dh"}),
        (ValueError, "gates: ", None, {"gates": 0}),
        (ValueError, "gates: ", None, {"gates": ""}),
        (TypeError, "arguments: expected a dict", None, {"arguments": "x"}),
        (ValueError, "arguments: expected names among", None, {"arguments": {"y": "N T D"}}),
        (ValueError, "arguments: expected a shape for", None, {"arguments": {"x": "N T D"}}),
        (ValueError, r"arguments\['x'\]: expected axes", None, {
            "arguments": {"x": "N T K", "h0": "N H", "Wx": "D H", "Wh": "H H", "b": "H"}}),
        (ValueError, "outputs: expected 2 names", None, {"outputs": "h h_T cache"}),
        (ValueError, "upstream: expected parameters of backward", None, {"upstream": {"dy": "h"}}),
        (ValueError, r"upstream\['dh'\]: expected an output", None, {"upstream": {"dh": "y"}}),
        (ValueError, "gradients: expected 5 names", None, {"gradients": "dx dh0"}),
        (ValueError, "gradients: expected names of arguments", None, {"gradients": "dx dh0 dWx dWh dz"}),
    ],
)  # fmt: skip
def test_bad_calls_of_certify(error, start, arguments, keywords):
    with pytest.raises(error, match=f"^{start}"):
        certify(*(arguments or (handwritten.rnn_forward, handwritten.rnn_backward)), **keywords)


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from handwritten import rnn_forward as fwd, rnn_backward\n\n\n"
        "def bwd(dh, cache):\n    return rnn_backward(dh, cache)\n\n\n"
        "def bad(dh, cache):\n    dx, dh0, dWx, dWh, db = rnn_backward(dh, cache)\n    return dx, dh0, 2 * dWx, dWh, db\n"
    )
    script = [sys.executable, "-m", "fastgate", "certify", "mine:fwd", "mine:bwd", "--sizes", "N=2,T=3,D=4,H=5"]
    good = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert "rnn_forward and bwd: right" in good.stdout
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["certify", "mine:fwd", "mine:bad", "--json", "report.json", "--gates", "1"]) == 1
    printed = capsys.readouterr().out
    assert "dWx: differs from finite differences" in printed
    assert "twice too large" in printed
    assert json.loads((tmp_path / "report.json").read_text())["wrong"].keys() == {"dWx"}


PAIR = "examples/certify_a_cell.py:forward"


@pytest.mark.parametrize(
    ("pair", "status", "words"),
    [
        ((PAIR, "examples/certify_a_cell.py:backward"), 0, "forward and backward: right"),
        ((PAIR, "examples/certify_a_cell.py:backward_swapped"), 1, "gates swapped"),
        (("examples/certify_a_cell.py:one_step", "examples/certify_a_cell.py:one_step_backward"), 1, "backward writes into it"),
        (("handwritten:rnn_forward", "handwritten:no_gradients"), 1, "returns no gradient of any argument"),
    ],
)
def test_files_on_the_command_line(pair, status, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["certify", *pair]) == status
    assert words in capsys.readouterr().out


def test_a_file_is_run_once_and_imports_from_its_folder(tmp_path, monkeypatch, capsys):
    """By any path: relative, absolute, without a module of that name in reach, or with another one of that name loaded."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "my code"
    folder.mkdir()
    (folder / "its_sibling.py").write_text("from handwritten import rnn_forward as fwd, rnn_backward as bwd\n")
    (folder / "json.py").write_text(
        "from pathlib import Path\nfrom its_sibling import bwd, fwd\n\n"
        "with open(Path(__file__).with_name('runs'), 'a') as runs:\n    runs.write('.')\n\n\n"
        "class Pair:\n    forward, backward = staticmethod(fwd), staticmethod(bwd)\n"
    )
    monkeypatch.chdir(folder)
    assert main(["certify", "json.py:fwd", f"{folder / 'json.py'}:Pair.backward"]) == 0
    assert "right" in capsys.readouterr().out
    assert (folder / "runs").read_text() == "."
    assert sys.modules["json"] is json


def test_a_pair_described_on_the_command_line(capsys):
    shapes = ("params.U=D H", "params.V=H H", "params.bias=H", "x=N T D", "h0=N H")
    options = ["--outputs", "cache h", "--upstream", "dout=h", *(word for shape in shapes for word in ("--argument", shape))]
    assert main(["certify", "handwritten:dict_forward", "handwritten:dict_backward", *options]) == 0
    assert "params.U (D H)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere:fwd", "handwritten:rnn_backward"), "forward: cannot import nowhere"),
        (("handwritten:nothing", "handwritten:rnn_backward"), "forward: handwritten has no nothing; its functions: "),
        (("handwritten", "handwritten:rnn_backward"), "forward: expected module:function or path/to/file.py:function"),
        (("handwritten:rnn_forward", "handwritten.py"), "backward: expected module:function or path/to/file.py:function"),
        (("/:f", "x:y"), "forward: there is no file "),
        (("./:f", "x:y"), "forward: there is no file ."),
        (("handwritten:rnn_forward", "no/such.py:bwd"), f"backward: there is no file {Path('no/such.py')}"),
        ((f"{HERE}/handwritten.py:rnn_forward", f"{HERE}/handwritten.py:bwd"), "handwritten.py has no bwd; its functions: "),
        ((f"{HERE}/handwritten.py:rnn_forward.x", "handwritten:rnn_backward"), "handwritten.py:rnn_forward has no x"),
        ((f"{HERE}/handwritten:rnn_forward", "handwritten:rnn_backward"), "handwritten; write handwritten.py:"),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--sizes", "N=x"), "expected N=3,T=5,D=4,H=6"),
        (
            ("handwritten:rnn_forward", "handwritten:rnn_backward", "--sizes", "N=4"),
            "sizes: expected N, T, D, H that all differ",
        ),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--argument", "x"), "--argument: expected name=shape"),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--upstream", "dh"), "--upstream: expected parameter=output"),
        *(
            (
                ("handwritten:rnn_forward", "handwritten:rnn_backward", "--argument", one, "--argument", two),
                "--argument: expected one",
            )
            for one, two in (("x=N", "x.y=N"), ("x.y=N", "x=N"))
        ),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--json", "nowhere/report.json"), "cannot write"),
    ],
)
def test_errors_of_the_command_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["certify", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("line", "words"), [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "SystemExit: 3")])
def test_a_file_that_fails_is_named(line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "that_fails.py").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    assert main(["certify", "that_fails.py:f", "that_fails.py:g"]) == 2
    assert f"that_fails.py: {words}" in capsys.readouterr().err


def test_import_fastgate_does_not_import_the_kit():
    script = "import sys, fastgate; assert not any(name.startswith('fastgate.check') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("certify_a_cell", ["backward: right", "dnext_c: backward writes into it", "the first step's contribution is missing"]),
        (
            "identify_a_cell",
            [
                "lstm, gate order figo",
                "gru, gate order zrn",
                "cannot match: gates are hard sigmoid",
                'Wr=Wr, gate_order="ifog"',
                "fastgate.leaky_step_forward(x, h, **weights)",
            ],
        ),
    ],
)
def test_examples(name, lines, capsys):
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for line in lines:
        assert line in printed


def test_the_page_runs(capsys):
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in page.split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    assert capsys.readouterr().out
