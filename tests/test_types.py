"""A typed user's file runs as it is typed; `make types` gives it, the package and the stubs to mypy."""

import typed_usage


def test_typed_usage_runs(capsys):
    typed_usage.main()
    assert capsys.readouterr().out
