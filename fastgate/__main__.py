"""python -m fastgate demo     trains a character model on English text
python -m fastgate certify  proves a hand-written forward/backward pair right, or names what is wrong
python -m fastgate info     prints the configuration
mpiexec -n 4 python -m fastgate demo --mpi    the same training, shared by four processes
"""

import argparse
import sys


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m fastgate",
        description="Fused recurrent kernels for NumPy: train a model, prove code of your own, or print what runs here.",
    )
    commands = parser.add_subparsers(dest="command", metavar="{demo,certify,info}", required=True)

    from fastgate.check import cli
    from fastgate.demo.options import add_options

    demo = commands.add_parser(
        "demo",
        help="train a character model on real English text and let it write",
        description="Train a character model on real English text, by default once with the C kernels and "
        "once with the NumPy reference, side by side and from the same seed. Ctrl-C saves.",
    )
    add_options(demo)
    proof = commands.add_parser(
        "certify",
        help="prove a hand-written forward/backward pair right, or name what is wrong",
        description="Run a recurrent forward/backward pair through finite differences and the cases in which hand-written code "
        "goes wrong, and print a report. Exit status 0: right, 1: wrong, 2: it could not be run.",
    )
    cli.add_options(proof)
    commands.add_parser("info", help="print version, processor, instruction set and libraries")
    args = parser.parse_args(argv)

    if args.command == "certify":
        return cli.main(args)
    if args.command == "info":
        import fastgate

        fastgate.show_config()
        return 0
    from fastgate.demo.main import main as run_demo

    return run_demo(args)


if __name__ == "__main__":
    sys.exit(main())
