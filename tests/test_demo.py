"""The demo: its model's gradients, its file, its manners."""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastgate
from fastgate.__main__ import main
from fastgate._files import replacing
from fastgate.demo import main as story
from fastgate.demo import model, text
from fastgate.demo.options import Settings
from fastgate.demo.train import Adam, Run

WORDS = "the quick brown fox jumps over the lazy dog; a black “cat” sleeps.\n" * 40
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(fastgate.__file__).parents[1])}
SIZES = {"--hidden": 12, "--layers": 2, "--embedding": 7, "--batch": 3, "--length": 8}
SMALL = [*(str(part) for option in SIZES.items() for part in option), "--sample", "0", "--no-picture"]
VARIANTS = [["--cell", "lstm"], ["--cell", "gru"], ["--cell", "rnn"], ["--one-hot"]]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, with a short text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS, encoding="utf-8")
    return tmp_path


def demo(*options, small=True):
    sizes = SMALL if small else []
    if small and "--one-hot" in options:
        place = sizes.index("--embedding")
        sizes = sizes[:place] + sizes[place + 2 :]
    return main(["demo", "--text", "words.txt", *sizes, *map(str, options)])


def resume(path, *options):
    """What the file does not know, and nothing else."""
    return main(["demo", "--resume", path, "--sample", "0", "--no-picture", *map(str, options)])


def contents(path):
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def assert_same_bits(a, b):
    a, b = contents(a), contents(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].tobytes() == b[name].tobytes(), name


# --- the model


@pytest.mark.parametrize("backend", ["c", "reference"])
@pytest.mark.parametrize("embedding", [5, 0])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gradients_against_differences(cell, embedding, backend):
    settings = Settings(cell=cell, hidden=6, layers=2, embedding=embedding, dtype="float64")
    rng = np.random.default_rng(3)
    K, N, T = 9, 3, 7
    parameters = model.initial(settings, K, rng)
    parameters = {p: a + 0.1 * rng.standard_normal(a.shape) for p, a in parameters.items()}
    net = model.CharModel(model.backend(backend), settings, parameters)
    ids, y = rng.integers(K, size=(2, N, T))
    states = [tuple(0.5 * rng.standard_normal(s.shape) for s in state) for state in net.zero_states(N)]
    _, gradients, _ = net.loss(ids, y, states)
    assert gradients.keys() == parameters.keys()

    for name, p in parameters.items():
        direction, before, eps = rng.standard_normal(p.shape), p.copy(), 1e-5
        ends = []
        for sign in (1, -1):
            p[...] = before + sign * eps * direction
            ends.append(net.loss(ids, y, states)[0])
        p[...] = before
        slope = (ends[0] - ends[1]) / (2 * eps)
        assert np.vdot(gradients[name], direction) == pytest.approx(slope, rel=1e-6), name


@pytest.mark.parametrize("backend", ["c", "reference"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_one_character_at_a_time_equals_the_sequence(cell, backend):
    settings = Settings(cell=cell, hidden=6, layers=2, embedding=5, dtype="float64")
    parameters = model.initial(settings, 9, np.random.default_rng(3))
    net = model.CharModel(model.backend(backend), settings, parameters)
    ids = np.array([[4, 0, 8, 3]])
    _, _, states_T = net.loss(ids, ids, net.zero_states(1))
    states = net.zero_states(1)
    for k in ids[0]:
        _, states = net.step(k, states)
    for state, state_T in zip(states, states_T, strict=True):
        for a, b in zip(state, state_T, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def test_scatter_add():
    rng = np.random.default_rng(0)
    ids, dx = rng.integers(5, size=(4, 6)) * 2, rng.standard_normal((4, 6, 3))
    expected = np.zeros((11, 3))
    np.add.at(expected, ids, dx)
    np.testing.assert_allclose(model.scatter_add(ids, dx, 11), expected, rtol=1e-14, atol=1e-15)


def test_draw():
    o, rng = np.array([0.0, 3.0, 1.0], np.float32), np.random.default_rng(0)
    assert model.draw(o, 0, rng) == 1
    assert {model.draw(o, 1e-9, rng) for _ in range(20)} == {1}
    found = np.bincount([model.draw(o, 2.0, rng) for _ in range(20000)], minlength=3) / 20000
    expected = np.exp(o / 2) / np.exp(o / 2).sum()
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_adam_follows_the_paper():
    rng = np.random.default_rng(0)
    p = {"a": rng.standard_normal(5)}
    x, m, v = p["a"].copy(), 0, 0
    adam = Adam(p, lr=0.01, beta2=0.999, eps=1e-8)
    for t in range(1, 6):
        g = rng.standard_normal(5)
        adam.update(p, {"a": g})
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(p["a"], x, rtol=1e-12)


# --- the text


def test_the_text_that_python_carries():
    words = text.read_text("")
    assert len(words) > 300_000
    assert "statement" in words
    chars = text.vocabulary(words)
    assert "".join(chars[k] for k in text.encode(words[:999], chars)) == words[:999]


def test_streams_read_on_and_see_every_character():
    ids = np.arange(100)
    streams = text.Streams(ids, batch=4, length=5, rng=np.random.default_rng(1))
    passes, last = [], None
    for _ in range(30):
        x, y, fresh = streams.next()
        np.testing.assert_array_equal((x + 1) % 100, y)
        if fresh:
            passes.append(set())
        else:
            np.testing.assert_array_equal(x[:, 0], last)
        passes[-1] |= set(x.ravel().tolist())
        last = y[:, -1]
    assert len(passes) > 5
    assert all(len(seen) >= 80 for seen in passes[:-1])
    assert len(set.union(*passes)) == 100


# --- training


@pytest.mark.parametrize("backend", ["c", "reference"])
@pytest.mark.parametrize("options", VARIANTS)
def test_loss_falls(options, backend):
    sizes = ["--layers", 1, "--lr", 0.1, "--steps", 150]
    assert demo("--backend", backend, "--model", "m.npz", *sizes, *options) == 0
    losses = contents("m.npz")[f"{backend}/losses"]
    assert len(losses) == 150
    assert losses[-10:].mean() < 0.2 * losses[0]


def test_the_two_backends_are_two():
    c, reference = model.backend("c"), model.backend("reference")
    for name in reference.__all__:
        assert getattr(c, name) is not getattr(reference, name), name


@pytest.mark.parametrize("options", VARIANTS)
def test_curves_agree(options):
    assert demo("--dtype", "float64", "--steps", 80, "--model", "m.npz", *options) == 0
    arrays = contents("m.npz")
    np.testing.assert_allclose(arrays["c/losses"], arrays["reference/losses"], rtol=0, atol=1e-10)


def test_both_say_how_far_apart_they_are(capsys):
    assert demo("--steps", 20, "--model", "m.npz") == 0
    line = capsys.readouterr().out.split("from equal parameters: ")[1].splitlines()[0].replace(",", "")
    loss, gradients = (float(word) for word in line.split() if "e-" in word or "e+" in word)
    assert loss < 1e-6
    assert 0 < gradients < 1e-5


def test_curves_agree_in_float32():
    assert demo("--steps", 60, "--model", "m.npz") == 0
    arrays = contents("m.npz")
    np.testing.assert_allclose(arrays["c/losses"], arrays["reference/losses"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["c", "reference", "both"])
@pytest.mark.parametrize("options", VARIANTS)
def test_resume_bit_for_bit(options, backend):
    options = ["--backend", backend, "--seed", 5, "--length", 20, *options]
    steps = len(WORDS) // 3 // 20 // 2 + 3  # the second half goes on into a second pass over the text
    assert demo("--steps", 2 * steps, "--model", "whole.npz", *options) == 0
    assert demo("--steps", steps, "--model", "half.npz", *options) == 0
    half = Path("half.npz").read_bytes()
    assert resume("half.npz", "--model", "rest.npz", "--steps", steps, "--backend", backend) == 0
    assert_same_bits("whole.npz", "rest.npz")
    assert Path("half.npz").read_bytes() == half


def test_resume_in_place_and_with_another_backend():
    assert demo("--backend", "reference", "--steps", 4, "--model", "m.npz") == 0
    assert demo("--resume", "m.npz", "--steps", 4) == 0
    arrays = contents("m.npz")
    np.testing.assert_array_equal(arrays["c/losses"][:4], arrays["reference/losses"][:4])
    np.testing.assert_allclose(arrays["c/losses"], arrays["reference/losses"], rtol=0, atol=1e-5)
    assert len(arrays["c/losses"]) == json.loads(arrays["header"].item())["step"] == 8


def test_resume_takes_a_new_rate_and_no_new_shape(capsys):
    assert demo("--backend", "reference", "--steps", 2, "--model", "m.npz") == 0
    assert demo("--backend", "reference", "--steps", 2, "--resume", "m.npz", "--lr", 0.5, "--clip", 0) == 0
    assert json.loads(contents("m.npz")["header"].item())["settings"]["lr"] == 0.5
    assert demo("--backend", "reference", "--resume", "m.npz", "--hidden", 13) == 2
    assert "--hidden 13: the model in m.npz has 12" in capsys.readouterr().err
    Path("words.txt").write_text(WORDS + "more", encoding="utf-8")
    assert demo("--backend", "reference", "--resume", "m.npz") == 2
    assert "words.txt is not the text this model learned from" in capsys.readouterr().err


def test_a_second_run_of_the_same_seed_has_the_same_bits():
    for name in ("a.npz", "b.npz"):
        assert demo("--steps", 5, "--model", name) == 0
    assert_same_bits("a.npz", "b.npz")
    assert demo("--steps", 5, "--model", "b.npz", "--seed", 1) == 0
    assert contents("a.npz")["c/losses"][0] != contents("b.npz")["c/losses"][0]


@pytest.mark.parametrize("backend", ["c", "reference"])
@pytest.mark.parametrize("options", VARIANTS)
def test_a_batch_in_shards_is_the_batch(options, backend):
    """Uneven ones; only rounding differs, and a model may go on with another number of them."""
    sizes = ["--dtype", "float64", "--backend", backend, "--batch", 5, "--steps", 40, *options]
    assert demo(*sizes, "--model", "whole.npz") == 0
    assert demo(*sizes, "--model", "shards.npz", "--shards", 3) == 0
    whole, shards = contents("whole.npz"), contents("shards.npz")
    for name in whole.keys() - {"header"}:
        np.testing.assert_allclose(shards[name], whole[name], rtol=1e-8, atol=1e-9, err_msg=name)
    assert whole[f"{backend}/losses"].tobytes() != shards[f"{backend}/losses"].tobytes()
    assert resume("shards.npz", "--steps", 1, "--backend", backend, "--shards", 5) == 0
    assert json.loads(contents("shards.npz")["header"].item())["settings"]["shards"] == 5


def test_it_saves_in_between(monkeypatch):
    steps = []

    def watched(path, *rest):
        save(path, *rest)
        steps.append(len(contents(path)["c/losses"]))

    save = story.save
    monkeypatch.setattr(story, "save", watched)
    assert demo("--steps", 7, "--save-every", 3, "--model", "m.npz") == 0
    assert steps == [3, 6, 7]


def test_sampling_follows_the_seed(capsys):
    assert demo("--backend", "reference", "--steps", 30, "--lr", 0.02, "--model", "m.npz") == 0

    def sampled(*options):
        capsys.readouterr()
        assert resume("m.npz", "--backend", "reference", "--steps", 0, "--sample", 80, *options) == 0
        return capsys.readouterr().out.split(":\n\n", 1)[1]

    assert sampled() == sampled() == sampled("--seed", "0") != sampled("--seed", "1")
    assert sampled("--temperature", "0") == sampled("--temperature", "0", "--seed", "1")
    assert sampled("--prompt", "fox").startswith("fox")
    text_written = sampled("--prompt", "t")
    assert len(text_written) == 1 + 80 + 1
    assert set(text_written) <= set(WORDS)


# --- manners


def start(*options):
    """The demo in a process of its own."""
    command = [sys.executable, "-m", "fastgate", "demo", "--text", "words.txt", *SMALL, *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes)


def test_interrupt_saves():
    with start("--backend", "reference", "--steps", 10**6, "--model", "m.npz", "--sample", 9) as process:
        for line in process.stdout:
            if line.startswith("step"):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "saved     m.npz" in out
    assert "sampled text" in out
    steps = len(contents("m.npz")["reference/losses"])
    assert 0 < steps < 10**6
    assert resume("m.npz", "--backend", "reference", "--steps", 3) == 0
    assert demo("--backend", "reference", "--steps", steps + 3, "--model", "whole.npz") == 0
    assert_same_bits("m.npz", "whole.npz")


def test_a_file_is_replaced_whole_or_not_at_all(folder):
    (folder / "m.npz").write_bytes(b"old")

    def interrupted():
        with replacing("m.npz") as file:
            file.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (folder / "m.npz").read_bytes() == b"old"
    with replacing("m.npz") as file:
        file.write(b"new")
    assert (folder / "m.npz").read_bytes() == b"new"
    assert sorted(path.name for path in folder.iterdir()) == ["m.npz", "words.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--cell lstn", "argument --cell: expected one of lstm, gru, rnn, got 'lstn'"),
        ("--hidden 0", "argument --hidden: expected a whole number, 1 or more, got '0'"),
        ("--hidden 1.5", "argument --hidden: expected a whole number"),
        ("--layers 65", "argument --layers: expected a whole number, 1 or more, at most 64, got '65'"),
        ("--steps -1", "argument --steps: expected a whole number, 0 or more"),
        ("--lr 0", "argument --lr: expected a number above 0, got '0'"),
        ("--lr nan", "argument --lr: expected a number"),
        ("--clip -1", "argument --clip: expected a number not below 0"),
        ("--temperature inf", "argument --temperature: expected a number"),
        ("--seed x", "argument --seed: expected a whole number"),
        ("--backend cuda", "argument --backend: expected one of c, reference, both"),
        ("--dtype float16", "argument --dtype: expected one of float32, float64"),
        ("--model m.txt", "argument --model: expected a file name ending in .npz"),
        ("--picture p.jpeg", "argument --picture: expected a file name ending in .png or .svg or .pdf"),
        ("--embedding 3 --one-hot", "not allowed with"),
        ("--model nowhere/m.npz", "--model nowhere/m.npz: there is no folder"),
        ("--picture folder.png", "--picture folder.png: not an ordinary file"),
        ("--text nowhere.txt", "--text nowhere.txt: No such file"),
        ("--text folder.png", "--text folder.png: Is a directory"),
        ("--text latin.txt", "--text latin.txt: not UTF-8 text"),
        ("--text empty.txt", "too few for --batch 16 --length 64: at least 1,040"),
        ("--batch 1000 --length 9", "too few for --batch 1000 --length 9: at least 10,000"),
        ("--prompt é", "--prompt: 'é' does not occur in the text"),
        ("--hidden 1000000", "parameters are more than this demo takes"),
        ("--shards 0", "argument --shards: expected a whole number, 1 or more, got '0'"),
        ("--shards 17", "--shards 17: expected at most --batch 16"),
        ("--save-every x", "argument --save-every: expected a whole number, 0 or more, got 'x'"),
    ],
)
def test_bad_options(folder, capsys, options, message):
    (folder / "folder.png").mkdir()
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "empty.txt").write_bytes(b"")
    options = ["--backend", "reference", *options.split()]
    try:
        status = demo(*options, small=False)
    except SystemExit as stop:  # argparse leaves this way
        status = stop.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (folder / "fastgate-demo.npz").exists()


def change(path, name, value):
    arrays = contents(path)
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    np.savez(path, **arrays)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(path, **changes):
    change(path, "header", np.array(json.dumps(json.loads(contents(path)["header"].item()) | changes)))


def settings_of(path):
    return json.loads(contents(path)["header"].item())["settings"]


SPOILERS = {
    "absent": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "flipped": lambda path: path.write_bytes(path.read_bytes().replace(b"NUMPY", b"NUMPI")),
    "an .npy": lambda path: path.write_bytes(npy(np.ones(3))),
    "another .npz": lambda path: np.savez(path, a=np.ones(3)),
    "compressed": lambda path: np.savez_compressed(path, **contents(path)),
    "pickle": lambda path: change(path, "header", np.array([{}], dtype=object)),
    "no json": lambda path: change(path, "header", np.array("{")),
    "list": lambda path: change(path, "header", np.array("[]")),
    "format": lambda path: header(path, format="fastgate demo 0"),
    "settings": lambda path: header(path, settings={"cell": "lstm"}),
    "cell": lambda path: header(path, settings=settings_of(path) | {"cell": "lstn"}),
    "hidden": lambda path: header(path, settings=settings_of(path) | {"hidden": 10**9}),
    "layers": lambda path: header(path, settings=settings_of(path) | {"layers": 10**12}),
    "vocabulary": lambda path: header(path, vocabulary="ba"),
    "vocabulary type": lambda path: header(path, vocabulary=[1, 2]),
    "step": lambda path: header(path, step=3),
    "position": lambda path: header(path, position=10**6),
    "start": lambda path: header(path, start=-1),
    "rng": lambda path: header(path, rng={"bit_generator": "PCG64", "state": {}}),
    "rng kind": lambda path: header(path, rng=7),
    "missing": lambda path: change(path, "reference/adam_v/Wh1", None),
    "no runs": lambda path: change(path, "reference/losses", None),
    "shape": lambda path: change(path, "reference/states/0/h", np.zeros((3, 13), np.float32)),
    "dtype": lambda path: change(path, "reference/parameters/V", np.zeros((12, 40))),
}


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "words.txt").write_text(WORDS, encoding="utf-8")
    command = [*SMALL, "--text", str(folder / "words.txt"), "--model", str(folder / "m.npz")]
    assert main(["demo", "--backend", "reference", "--steps", "2", *command]) == 0
    return (folder / "m.npz").read_bytes()


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS.keys())
def test_bad_model_files(folder, capsys, model_file, spoil):
    path = folder / "m.npz"
    path.write_bytes(model_file)
    spoil(path)
    assert demo("--backend", "reference", "--resume", "m.npz", "--steps", 1, "--model", "new.npz") == 2
    assert capsys.readouterr().err.startswith("fastgate demo: error: --resume m.npz: ")
    assert not (folder / "new.npz").exists()


def test_a_file_cannot_ask_for_more_memory_than_it_has(folder, capsys, model_file):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile("m.npz", "w") as members:
        members.writestr("header.npy", head.getvalue())
    assert demo("--backend", "reference", "--resume", "m.npz") == 2
    assert "not a model of this demo" in capsys.readouterr().err


def test_divergence_is_said_and_not_saved(folder, capsys):
    options = ["--cell", "rnn", "--lr", 1e39, "--clip", 0, "--backend", "reference", "--steps", 50]
    assert demo(*options, "--model", "m.npz") == 2
    assert "training diverged at step" in capsys.readouterr().err
    assert not (folder / "m.npz").exists()


def test_picture(folder):
    pytest.importorskip("matplotlib")
    assert demo("--steps", 30, "--picture", "p.png") == 0
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_extra(monkeypatch, capsys):
    for name in ("rich.progress", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert demo("--backend", "reference", "--steps", 40, "--picture", "p.png") == 0
    out = capsys.readouterr().out
    assert out.count("\nstep ") == 21
    assert "none: matplotlib is not installed" in out


def test_info(capsys):
    assert main(["info"]) == 0
    assert fastgate.__version__ in capsys.readouterr().out


def test_importing_fastgate_pays_for_none_of_it():
    wing = {"fastgate.demo", "fastgate.__main__", "argparse", "rich", "matplotlib"}
    code = f"import sys, fastgate; print(sorted({wing} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], env=ENVIRONMENT, text=True) == "[]\n"


def test_a_closed_pipe_is_no_traceback():
    with start("--backend", "reference", "--steps", 2000) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == ""


def test_run_counts_its_own_time():
    settings = Settings(hidden=4, layers=1, embedding=3, batch=2, length=5)
    run = Run("reference", settings, model.initial(settings, 6, np.random.default_rng(0)))
    assert run.speed() == 0
    ids = np.arange(10).reshape(2, 5) % 6
    run.step(ids, ids, True)
    assert run.speed() == pytest.approx(10 / run.times[0])
