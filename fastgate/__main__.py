"""python -m fastgate demo    trains a character model on English text
python -m fastgate info    prints the configuration
mpiexec -n 4 python -m fastgate demo --mpi    the same training, shared by four processes
"""

import argparse
import sys


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m fastgate",
        description="Fused recurrent kernels for NumPy: train a model, or print what runs here.",
    )
    commands = parser.add_subparsers(dest="command", metavar="{demo,info}", required=True)

    from fastgate.demo.options import add_options

    demo = commands.add_parser(
        "demo",
        help="train a character model on real English text and let it write",
        description="Train a character model on real English text, by default once with the C kernels and "
        "once with the NumPy reference, side by side and from the same seed. Ctrl-C saves.",
    )
    add_options(demo)
    commands.add_parser("info", help="print version, processor, instruction set and libraries")
    args = parser.parse_args(argv)

    if args.command == "info":
        import fastgate

        fastgate.show_config()
        return 0
    from fastgate.demo.main import main as run_demo

    return run_demo(args)


if __name__ == "__main__":
    sys.exit(main())
